package daemon_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/daemon"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/metrics"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/realtest"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/source/sockdiag"
	"github.com/sockdog/sockdog/internal/status"
	"github.com/sockdog/sockdog/internal/web"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// show has the watchdog publish how things stand, and returns what was published
// last.
func (w *world) show() func() *status.Status {
	board := web.NewStore()
	w.options.StatusStore, w.options.Host = board, "shop"
	return board.Current
}

// flood makes sockets in TIME_WAIT.
func (w *world) flood(l nstest.Socket, n int) {
	w.Helper()
	for range n {
		p := must(nstest.NewPair(l))(w)
		check(w, p.Client.Close())
		check(w, p.Server.Close())
	}
}

// drain ends all sockets in TIME_WAIT, long before their minute is over.
func (w *world) drain() {
	w.Helper()
	c := must(sockdiag.Open(w.options.Now, nil))(w)
	defer c.Close()
	var ids []sock.ID
	check(w, c.Scan(sock.Query{States: 1 << ssfilter.TimeWait}, func(s *sock.Socket, _ sock.Instant) { ids = append(ids, s.ID) }))
	for _, id := range ids {
		if c.Destroy(id) == unix.EOPNOTSUPP {
			w.Skip("needs a kernel that destroys sockets in TIME_WAIT")
		}
	}
}

// A flood raises an alert in a real Alertmanager, holds it, and resolves it; what
// is published shows it. It is told by the counters: no scan is made.
func TestFlood(t *testing.T) {
	t.Parallel()
	const n = 300 // half of them will do: the kernel may use a port again (tcp_tw_reuse)
	am := realtest.StartAlertmanager(t, "http://127.0.0.1:1/")
	w := newWorld(t)
	current := w.show()
	var scans atomic.Int32
	w.scan = func(k kernel, q sock.Query, each func(*sock.Socket, sock.Instant)) error {
		if q.States.Has(ssfilter.TimeWait) {
			scans.Add(1)
		}
		return k.Scan(q, each)
	}
	l := w.listen(nstest.V4, 8080)
	w.watch(often + fmt.Sprintf(`
receivers: {oncall: {alertmanager: {url: %q}}}
rules:
  - name: time-wait-flood
    match: {state: time-wait}
    when: count >= %d
    until: count < 10
    for: 1s
    labels: {team: shop}
    then: [{alert: {severity: critical}}]
`, am.URL, n/2))
	phase := func(msg string) { w.await(msg, func(l line) bool { return l.Msg == msg }) }
	w.flood(l, n)
	phase("group pending")
	phase("group firing")
	fired := time.Now()
	w.until("alert in Alertmanager", func() bool { return len(am.Active(t)) == 1 })
	t.Logf("Alertmanager showed the alert %v after it fired", time.Since(fired))
	shown := am.Active(t)[0]
	want := map[string]string{"alertname": "time-wait-flood", "instance": "shop", "severity": "critical", "team": "shop"}
	if diff := cmp.Diff(want, shown.Labels); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	if got, want := shown.Annotations["summary"], "time-wait-flood: "+shown.Annotations["count"]+" sockets on shop"; got != want {
		t.Errorf("summary %q, want %q", got, want)
	}
	if late := shown.StartsAt.Sub(fired); late > patience || late < -patience {
		t.Errorf("it is said to fire since %v, and fired at %v", shown.StartsAt, fired)
	}

	w.until("firing rule in what is published", func() bool {
		s := current()
		return s.Rules[0].Firing == 1 && s.Sockets["time-wait"] >= n/2 && s.Receivers[0].Sent > 0
	})
	s := current()
	if g := s.Rules[0].Groups; len(g) != 1 || g[0].Phase != status.Firing || g[0].Conditions[0].Value < n/2 || !s.Ready || len(s.Problems) > 0 {
		t.Errorf("published: ready %v, problems %v, groups %+v", s.Ready, s.Problems, g)
	}
	if at := s.Actions[0]; at.Action != "group" || at.Result != "firing" || at.Sockets < n/2 {
		t.Errorf("the last action is %+v", at)
	}
	scraped := string(metrics.Text(s))
	for _, want := range []string{`sockdog_rule_firing{rule="time-wait-flood"} 1`, fmt.Sprintf(`sockdog_sockets{state="time-wait"} %d`, s.Sockets["time-wait"]), `sockdog_alerts_total{receiver="oncall",result="sent"} 1`} {
		if !strings.Contains(scraped, want+"\n") {
			t.Errorf("a scrape lacks %s", want)
		}
	}
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if got := am.Active(t); len(got) != 1 || !got[0].StartsAt.Equal(shown.StartsAt) {
			t.Fatalf("the alert did not hold: %+v", got)
		}
	}

	w.drain()
	phase("group resolved")
	w.until("end of the alert in Alertmanager", func() bool { return len(am.Active(t)) == 0 })
	w.until("end of it in what is published", func() bool { return current().Rules[0].Firing == 0 })
	if n := scans.Load(); n > 0 {
		t.Errorf("%d looks at sockets in TIME_WAIT, and their counter tells", n)
	}
}

// serve serves on loopback, where the daemon's senders are: in the process's own
// namespace.
func (w *world) serve(handler http.HandlerFunc) (url string) {
	started := make(chan *httptest.Server)
	go func() { started <- httptest.NewServer(handler) }()
	server := <-started
	w.Cleanup(server.Close)
	return server.URL
}

// message is what a webhook gets.
type message struct {
	Status string
	Alerts []struct {
		Status              string
		Labels, Annotations map[string]string
	}
}

// receiver takes messages, the first of which the function waits for.
func (w *world) receiver() (url string, next func() message) {
	told := make(chan message, 100)
	url = w.serve(func(_ http.ResponseWriter, r *http.Request) {
		var m message
		if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
			w.Error(err)
		}
		told <- m
	})
	return url, func() message {
		w.Helper()
		select {
		case m := <-told:
			return m
		case <-time.After(patience):
			w.Fatalf("nothing was told within %v; the log:\n%s", patience, w.log.String())
			return message{}
		}
	}
}

// An alert names who holds the sockets. Where its template fails it says what
// sockdog says by itself, and that is said once. A rule that goes ends its alerts.
func TestAlertTells(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	current := w.show()
	url, next := w.receiver()
	l := w.listen(nstest.V4, 5432)
	for range 3 {
		w.leak(l)
	}
	w.watch(often + fmt.Sprintf("receivers: {chat: {webhook: {url: %q}}}", url) + `
rules:
  - name: ab
    description: The shop forgets to close.
    match: {state: close-wait}
    group_by: [src, sport]
    when: count > 2
    then: [{alert: {summary: "{{slice .Rule 0 3}}", description: "{{.Count}} held by {{.Holders}}"}}]
`)
	m := next()
	if m.Status != "firing" || len(m.Alerts) != 1 {
		t.Fatalf("told %+v, want one alert that fires", m)
	}
	labels := map[string]string{"alertname": "ab", "instance": "shop", "severity": "warning", "src": "127.0.0.1", "sport": "5432"}
	if diff := cmp.Diff(labels, m.Alerts[0].Labels); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	said := m.Alerts[0].Annotations
	if got, want := said["summary"], "ab: 3 sockets from 127.0.0.1:5432 to 127.0.0.1 on shop"; got != want {
		t.Errorf("summary %q, want %q", got, want)
	}
	if want := fmt.Sprintf("[%d] 3", os.Getppid()); !strings.HasSuffix(said["description"], want) {
		t.Errorf("description %q, want it to end in %q", said["description"], want)
	}
	w.until("problem with the template", func() bool {
		s := current()
		return len(s.Problems) == 1 && s.Problems[0].Kind == "template"
	})
	scans := current().Scans.OK
	w.until("more samples, which are told too", func() bool { return current().Scans.OK >= scans+2 })
	if n := w.count("template failed"); n != 1 {
		t.Errorf("that a template failed is said %d times, want once", n)
	}

	// Its receiver goes with it, and is told first.
	w.rules <- daemon.Reload{Rules: w.parse("rules: []\n")}
	if m := next(); m.Status != "resolved" {
		t.Errorf("the rule is gone, and told is %+v", m)
	}
	w.until("end of the problem", func() bool { return len(current().Problems) == 0 })
}

// What fires goes on firing over a restart, and is told as it was.
func TestAlertOutlivesRestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	url, next := w.receiver()
	text := often + fmt.Sprintf(`
receivers: {chat: {webhook: {url: %q}}}
rules: [{name: leak, match: {state: close-wait}, when: count > 2, until: count < 1, for: 2s, then: alert}]
`, url)
	dir := t.TempDir()
	closeState := w.openState(dir)
	l := w.listen(nstest.V4, 5432)
	var leaks []stuck
	for range 3 {
		leaks = append(leaks, w.leak(l))
	}
	stop := w.watch(text)
	since := func(m message) time.Time {
		return must(time.Parse(time.RFC3339, m.Alerts[0].Annotations["since"]))(t)
	}
	before := since(next())
	stop()
	closeState()
	check(t, leaks[0].Close())
	check(t, leaks[1].Close())

	w.openState(dir)
	stop = w.watch(text)
	m := next()
	// It was pending for longer than an error of a second, which is what times are told to.
	if moved := since(m).Sub(before).Abs(); m.Status != "firing" || m.Alerts[0].Annotations["count"] != "1" || moved > time.Second {
		t.Errorf("after the restart told is %+v, want count 1 since %s", m, before)
	}
	if n := w.count("group firing"); n != 1 {
		t.Errorf("the group began to fire %d times", n)
	}
	stop()
	var turns []string
	for _, r := range w.records(dir) {
		turns = append(turns, r.Action+" "+string(r.Result))
	}
	if diff := cmp.Diff([]string{"group pending", "group firing"}, turns); diff != "" {
		t.Errorf("the journal (-want +got):\n%s", diff)
	}
}

// What fires goes on firing over a restart with a file that cannot be read at first.
func TestAlertOutlivesBadFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	url, next := w.receiver()
	text := often + fmt.Sprintf(`
receivers: {chat: {webhook: {url: %q}}}
rules: [{name: leak, match: {state: close-wait}, when: count > 0, for: 2s, then: alert}]
`, url)
	dir := t.TempDir()
	closeState := w.openState(dir)
	w.leak(w.listen(nstest.V4, 5432))
	stop := w.watch(text)
	next()
	stop()
	closeState()

	w.openState(dir)
	w.options.File = status.RulesFile{Path: "rules.yaml", Error: "bad"}
	w.watch(often + "rules: [{name: built-in, match: {state: close-wait}, then: log}]\n")
	w.rules <- daemon.Reload{Rules: w.parse(text)}
	if m := next(); m.Status != "firing" {
		t.Errorf("once the file is mended told is %+v", m)
	}
	if n := w.count("group firing"); n != 1 {
		t.Errorf("the group began to fire %d times", n)
	}
}

// The only message of an alert about what is killed at once says what there was,
// towards whom, who holds it, and what was done.
func TestAlertOfWhatIsKilled(t *testing.T) {
	t.Parallel()
	for _, then := range []string{"[kill, alert]", "[alert, kill]"} {
		t.Run(then, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			url, next := w.receiver()
			l := w.listen(nstest.V4, 5432)
			w.watch(often + fmt.Sprintf("receivers: {chat: {webhook: {url: %q}}}\n", url) +
				"rules: [{name: leak, match: {state: close-wait, in_state_for: 1s}, then: " + then + "}]\n")
			for range 3 {
				w.leak(l)
			}
			said := next().Alerts[0].Annotations
			if peak, err := strconv.Atoi(said["peak"]); err != nil || peak < 1 || peak > 3 {
				t.Errorf("of %q sockets", said["peak"])
			}
			if !strings.Contains(said["summary"], " to 127.0.0.1") || strings.Contains(said["summary"], "no socket") {
				t.Errorf("summary %q", said["summary"])
			}
			if holder := fmt.Sprintf("[%d] ", os.Getppid()); !strings.Contains(said["holders"], holder) {
				t.Errorf("held by %q, want %q", said["holders"], holder)
			}
			w.until("kills", func() bool { return w.kills() == 3 })
		})
	}
}

// An escalation says what was done before it.
func TestEscalationSaysWhatWasDone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	url, next := w.receiver()
	l, spared := w.listen(nstest.V4, 5432), w.listen(nstest.V4, 7777)
	w.watch(often + fmt.Sprintf("receivers: {chat: {webhook: {url: %q}}}", url) + `
protect: ["sport = :7777"]
rules: [{name: leak, match: {state: close-wait, in_state_for: 1s}, when: count > 2, until: count < 1, then: [kill, {alert: {after: 1500ms}}]}]
`)
	for range 3 {
		w.leak(l)
		w.leak(spared)
	}
	if got, want := next().Alerts[0].Annotations["done"], "kill: 3 done, since the rule began to fire"; got != want {
		t.Errorf("done %q, want %q", got, want)
	}
}

// A rule that killed, and only alerts since a reload, is told of like any that does.
func TestRuleThatKillsNoMore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	url, next := w.receiver()
	rule := func(then string) string {
		return often + fmt.Sprintf("receivers: {chat: {webhook: {url: %q}}}\n", url) + "rules: [{name: leak, match: {state: close-wait, in_state_for: 1s}, then: " + then + "}]\n"
	}
	l := w.listen(nstest.V4, 5432)
	w.watch(rule("kill"))
	w.dies(w.leak(l), time.Second)
	w.rules <- daemon.Reload{Rules: w.parse(rule("alert"))}
	w.leak(l)
	if m := next(); len(m.Alerts) != 1 || m.Alerts[0].Annotations["done"] != "nothing: the rule only alerts" {
		t.Errorf("told %+v, and the rule only alerts", m)
	}
	w.await("the group in the log", func(l line) bool { return l.Msg == "group firing" })
}

// An alert that should have ended while nobody watched ends with the restart.
func TestAlertEndsWhileDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	url, next := w.receiver()
	const keep = 3 * time.Second
	text := often + fmt.Sprintf(`
receivers: {chat: {webhook: {url: %q}}}
rules: [{name: leak, match: {state: close-wait}, when: count > 0, then: {alert: {keep_firing_for: %v}}}]
`, url, keep)
	dir := t.TempDir()
	closeState := w.openState(dir)
	leak := w.leak(w.listen(nstest.V4, 5432))
	stop := w.watch(text)
	if m := next(); m.Status != "firing" {
		t.Fatalf("told %+v, want an alert that fires", m)
	}
	check(t, leak.Close())
	w.await("end of the group", func(l line) bool { return l.Msg == "group resolved" })
	stop()
	closeState()
	time.Sleep(keep)
	w.openState(dir)
	w.watch(text)
	if m := next(); m.Status != "resolved" {
		t.Errorf("after the restart told is %+v, want the end", m)
	}
}

// Numbers that were read once are not shown for those of now.
func TestCensusThatFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	current := w.show()
	var broken atomic.Bool
	w.scan = func(k kernel, q sock.Query, each func(*sock.Socket, sock.Instant)) error {
		if broken.Load() {
			return unix.EPERM
		}
		return k.Scan(q, each)
	}
	l := w.listen(nstest.V4, 5432)
	w.watch("settings: {cpu_budget: 100%}\nrules: []\n") // whatever a count costs here, the next comes soon
	w.until("census", func() bool { return current().Sockets["listening"] == 1 })
	broken.Store(true)
	w.pair(l) // there is something new to count
	w.until("end of what it told", func() bool { return len(current().Sockets) == 0 })
}

// Sockets are counted by state without a scan at those in the expensive ones.
func TestCensus(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	current := w.show()
	l4, l6 := w.listen(nstest.V4, 5432), w.listen(nstest.V6, 5432)
	w.pair(l4)
	w.pair(l6)
	w.leak(l4)
	w.leak(l6)
	halfClosed := w.pair(l4)
	check(t, halfClosed.Client.CloseWrite())
	check(t, halfClosed.Server.Await(unix.BPF_TCP_CLOSE_WAIT))
	w.flood(l6, 3)
	// The peers of what leaks are orphans, which the kernel makes minisockets of once
	// their FIN is acknowledged.
	c := must(sockdiag.Open(w.options.Now, nil))(w)
	defer c.Close()
	w.until("acknowledged FINs", func() bool {
		n := 0
		check(w, c.Scan(sock.Query{States: 1 << ssfilter.FinWait1}, func(*sock.Socket, sock.Instant) { n++ }))
		return n == 0
	})
	w.watch("rules: []\n")
	want := status.Sockets{
		"established": 4, "time-wait": 3, "close-wait": 3, "fin-wait-2": 3, "listening": 2,
		"closed": 0, "closing": 0, "fin-wait-1": 0, "last-ack": 0, "syn-recv": 0, "syn-sent": 0,
	}
	w.until("census", func() bool { return current().Sockets != nil })
	if diff := cmp.Diff(want, current().Sockets); diff != "" {
		t.Errorf("sockets by state (-want +got):\n%s", diff)
	}
	if h := current().History; h == nil || h.Sockets["close-wait"][len(h.Sockets["close-wait"])-1] == nil || *h.Sockets["close-wait"][len(h.Sockets["close-wait"])-1] != 3 {
		t.Errorf("the history is %+v", h)
	}
}

// What keeps the daemon from its work stands at the top of what is published, and
// goes when it is mended.
func TestProblems(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	current := w.show()
	w.options.File = status.RulesFile{Path: "rules.yaml", Error: "2:3: no"}
	w.options.Capabilities = match.Capabilities{rules.Destroy: errors.New("not permitted"), rules.Descriptor: errors.New("not permitted")}
	w.options.Cures = map[rules.Capability]string{rules.Destroy: "run as root"}
	w.options.Journal = refusing{unix.EROFS}
	var broken atomic.Bool
	broken.Store(true)
	url := w.serve(func(rw http.ResponseWriter, _ *http.Request) {
		if broken.Load() {
			rw.WriteHeader(http.StatusInternalServerError)
		}
	})
	receivers := fmt.Sprintf("receivers: {chat: {webhook: {url: %q}}}\n", url)
	w.leak(w.listen(nstest.V4, 5432))
	const then = ", when: count > 0, then: alert}]\n"
	w.watch(often + receivers + "rules: [{name: leak, match: {state: close-wait, in_state_for: 1s}, then: kill}, {name: flood, match: {state: close-wait}" + then)
	kinds := func() []string {
		var all []string
		for _, p := range current().Problems {
			all = append(all, p.Kind)
		}
		slices.Sort(all)
		return all
	}
	w.until("problems", func() bool {
		return slices.Equal(kinds(), []string{"kill", "receiver chat", "rules", "the journal"})
	})
	if s := current(); s.ActionPossible["kill"] || s.File.OK {
		t.Errorf("published: kill possible %v, rules file in force %v", s.ActionPossible["kill"], s.File.OK)
	}
	broken.Store(false)
	w.rules <- daemon.Reload{Rules: w.parse(often + receivers + "rules: [{name: flood, match: {state: close-wait}" + then)}
	w.until("end of the problems but that of the disk", func() bool { return slices.Equal(kinds(), []string{"the journal"}) })
	if s := current(); !s.File.OK {
		t.Error("the rules file was read, and is not said to be in force")
	}
}

// hangingReceiver takes requests, and answers none. The function says how many it
// has taken.
func (w *world) hangingReceiver() (url string, taken func() int) {
	var n atomic.Int32
	gone := make(chan struct{})
	url = w.serve(func(http.ResponseWriter, *http.Request) {
		n.Add(1)
		<-gone
	})
	w.Cleanup(func() { close(gone) })
	return url, func() int { return int(n.Load()) }
}

// A receiver that hangs delays no kill, and no end of the watchdog.
func TestReceiverThatHangs(t *testing.T) {
	t.Parallel()
	const n = 20
	w := newWorld(t)
	url, taken := w.hangingReceiver()
	stop := w.watch(often + fmt.Sprintf(`
receivers: {chat: {webhook: {url: %q, timeout: 1m}}}
rules:
  - {name: leak, match: {state: close-wait, in_state_for: 2s}, then: [alert, kill]}
`, url))
	leaks := w.leaks(n)
	var late []time.Duration
	for _, s := range leaks {
		late = append(late, w.dies(s, bound))
	}
	w.until("request to the receiver", func() bool { return taken() > 0 })
	more, l := make([]stuck, n), w.listen(nstest.V6, 5432) // while it hangs for certain
	for i := range more {
		more[i] = w.leak(l)
	}
	for _, s := range more {
		late = append(late, w.dies(s, bound))
	}
	if taken() != 1 {
		t.Errorf("the receiver took %d requests, want the one that it holds", taken())
	}
	slices.Sort(late)
	t.Logf("killed after their time: half within %v, all within %v", late[n], late[2*n-1])
	t.Logf("stopped within %v", stop())
}
