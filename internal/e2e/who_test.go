package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
)

// three are programs that leak each in its own way, language and network namespace.
func three(t *testing.T) (unread, forgotten, unaccepted leaky) {
	t.Helper()
	unread = leak(t, "python3", "-c", neverReads, fmt.Sprint(leaks))
	forgotten = leak(t, "perl", "-e", readsAndForgets, fmt.Sprint(leaks))
	return unread, forgotten, leak(t)
}

// tells runs a command of sockdog that must end with status 0, and reads its JSON.
func tells[T any](t *testing.T, args ...string) (list []T) {
	t.Helper()
	check(t, json.Unmarshal(run0(t, args...), &list))
	return list
}

// run0 runs a command of sockdog that must end with status 0.
func run0(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(sockdog, args...)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("sockdog %s: %v\n%s%s", strings.Join(args, " "), err, out, said.String())
	}
	return out
}

// left is how many sockets in CLOSE_WAIT there are in the network namespace of each program.
func left(t *testing.T, programs ...leaky) (counts []int) {
	t.Helper()
	type socket struct{ Netns string }
	by := make(map[string]int)
	for _, s := range tells[socket](t, "list", "--namespaces", "-o", "json", "--fields", "netns", "--daemon", "off", "state", "close-wait") {
		by[s.Netns]++
	}
	for _, p := range programs {
		counts = append(counts, by[fmt.Sprint(p.netns)])
	}
	return counts
}

// Each of three programs is named by why, with what it does wrong; a rule on one of them heals that
// and leaves the others.
func TestWhoLeaks(t *testing.T) {
	need(t)
	unread, forgotten, unaccepted := three(t)
	type finding struct {
		PID, Count           int
		Comm, Netns, Verdict string
		Leak                 bool
	}
	found := make(map[int]finding)
	for _, f := range tells[finding](t, "why", "--namespaces", "-o", "json", "--daemon", "off") {
		found[f.PID] = f
	}
	of := func(p leaky, verdict string) finding {
		return finding{PID: p.pid, Count: leaks, Comm: p.comm, Netns: fmt.Sprint(p.netns), Verdict: verdict, Leak: true}
	}
	want := map[int]finding{
		unread.pid: of(unread, "eof-unread"), forgotten.pid: of(forgotten, "eof-read-not-closed"), unaccepted.pid: of(unaccepted, "in-backlog"),
	}
	if diff := cmp.Diff(want, found); diff != "" {
		t.Errorf("who leaks, and why (-want +got):\n%s", diff)
	}

	w := watch(t, fmt.Sprintf(`
settings: {namespaces: all}
rules: [{name: forgets, match: {state: close-wait, process: %q, user: root, in_state_for: 1s}, then: {kill: {canary: off}}}]
`, forgotten.comm))
	until(t, "kill of each", func() bool { return w.count("kill done") >= leaks })
	w.stop()
	for _, l := range w.find(func(l line) bool { return l.Action == "kill" }) {
		if l.PID != forgotten.pid || l.Result != "done" {
			t.Errorf("the kill of a socket of %s[%d] is %s; want those of %s[%d] done", l.Comm, l.PID, l.Result, forgotten.comm, forgotten.pid)
		}
	}
	if diff := cmp.Diff([]int{leaks, 0, leaks}, left(t, unread, forgotten, unaccepted)); diff != "" {
		t.Errorf("sockets left in CLOSE_WAIT (-want +got):\n%s", diff)
	}
}

// The rules that why prints are good ones, and heal what rules can heal.
func TestRulesOfWhyHeal(t *testing.T) {
	need(t)
	unread, forgotten, unaccepted := three(t)
	for name, p := range map[string]*leaky{"unread": &unread, "forgotten": &forgotten, "unaccepted": &unaccepted} {
		p.call(t, name)
	}
	rules := string(run0(t, "why", "--namespaces", "--rules", "--daemon", "off"))
	file := filepath.Join(t.TempDir(), "rules.yaml")
	check(t, os.WriteFile(file, []byte(rules), 0o600))
	said, err := exec.Command(sockdog, "check", "--lint", file).CombinedOutput()
	if err != nil || strings.Count(string(said), "warning: ") != 1 || !strings.Contains(string(said), "warning: dry_run is on") {
		t.Fatalf("check --lint: %v\n%swant no other word than that dry_run is on, of\n%s", err, said, rules)
	}

	dry := watch(t, strings.ReplaceAll(rules, "in_state_for: 10m", "in_state_for: 1s"))
	until(t, "word on each", func() bool { return dry.count("would kill") >= 2*leaks })
	dry.stop()
	if diff := cmp.Diff([]int{leaks, leaks, leaks}, left(t, unread, forgotten, unaccepted)); diff != "" {
		t.Fatalf("sockets left in CLOSE_WAIT by a dry run (-want +got):\n%s", diff)
	}
	w := watch(t, strings.NewReplacer("dry_run: true", "dry_run: false", "in_state_for: 10m", "in_state_for: 1s").Replace(rules))
	until(t, "kill of each", func() bool { return w.count("kill done") >= 2*leaks })
	w.stop()
	if diff := cmp.Diff([]int{0, 0, leaks}, left(t, unread, forgotten, unaccepted)); diff != "" {
		t.Errorf("sockets left in CLOSE_WAIT (-want +got):\n%s", diff)
	}
}

// Of five equal workers the one that leaks is found by its process id, which the alert names.
func TestLeakyWorker(t *testing.T) {
	need(t)
	var workers []leaky
	for _, n := range []int{3, 3, 110, 3, 3} {
		w := leak(t, "perl", "-e", readsAndForgets, fmt.Sprint(n))
		limit := unix.Rlimit{Cur: 130, Max: 130}
		check(t, unix.Prlimit(w.pid, unix.RLIMIT_NOFILE, &limit, nil))
		workers = append(workers, w)
	}
	var inbox inbox
	receiver := inbox.open(t)
	example := string(must(os.ReadFile("../../examples/leaky-worker.yaml"))(t))
	rules := fmt.Sprintf("settings: {namespaces: all}\nreceivers: {test: {webhook: {url: %q}}}\n", receiver) +
		strings.NewReplacer("in_state_for: 5m", "in_state_for: 1s", "for: 1m", "for: 2s", "[log]", "[alert]").Replace(example)
	watch(t, rules, func(c *exec.Cmd) { c.SysProcAttr = &syscall.SysProcAttr{} }) // where the receiver is
	until(t, "alert", func() bool { return len(inbox.all()) > 0 })
	for _, a := range inbox.all() {
		if got, want := [2]string{a.Labels["process"], a.Labels["pid"]}, [2]string{workers[2].comm, fmt.Sprint(workers[2].pid)}; got != want {
			t.Errorf("the alert is about %v, want %v: %+v", got, want, a)
		}
	}
}

// message is what a webhook gets, and inbox all alerts of those.
type message struct{ Alerts []alert }

type alert struct{ Labels map[string]string }

type inbox struct {
	mu     sync.Mutex
	alerts []alert
}

func (in *inbox) all() []alert {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.alerts
}

// open returns the URL at which messages are taken.
func (in *inbox) open(t *testing.T) string {
	t.Helper()
	check(t, nstest.LoopbackUp())
	listener := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	server := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var m message
		if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
			t.Error(err)
		}
		in.mu.Lock()
		in.alerts = append(in.alerts, m.Alerts...)
		in.mu.Unlock()
	})}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	return "http://" + listener.Addr().String()
}
