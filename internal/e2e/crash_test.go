package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
)

// crashes is how often sockdog is killed; -short has it killed less often.
const crashes, fewCrashes = 200, 20

// latestCrash is when it is killed at the latest after the moment from which a run counts:
// in turn its start, its first scan and its first acts, whatever time the machine takes
// to come there.
const latestCrash = 150 * time.Millisecond

var crashesAfter = []func(*watchdog){
	func(*watchdog) {},
	func(w *watchdog) { w.says("watching") },
	func(w *watchdog) {
		for _, action := range []string{"kill", "sysctl"} {
			w.await("act of "+action, func(l line) bool { return l.Action == action && l.Result == "done" })
		}
	},
}

const crashRules = `
settings: {interval: 20ms, cpu_budget: 100%%}
rules:
  - name: leak
    match: {state: close-wait, in_state_for: 20ms}
    then: [{kill: {canary: off}}]
  - name: fires
    match: {state: listening}
    when: count > 0
    cooldown: 1ms
    then:
      - sysctl: {set: {net.ipv4.tcp_fin_timeout: 17}}
      - exec: {command: [/bin/sh, -c, "echo >>$1", sh, %s]}
`

// journalRecord is what a line of the journal says.
type journalRecord struct {
	Seq            uint64
	Action, Result string
	Cookie         uint64
}

// readJournal reads the whole lines of a journal, and fails for one that cannot be read.
// Only the last line of a sockdog that was killed may be torn.
func readJournal(t *testing.T, dir string) (all []journalRecord) {
	t.Helper()
	files := must(filepath.Glob(filepath.Join(dir, "sockdog.jsonl*")))(t)
	for _, file := range files {
		text := must(os.ReadFile(file))(t)
		text = text[:bytes.LastIndexByte(text, '\n')+1]
		for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
			var r journalRecord
			if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
				t.Fatalf("%s: %q: %v", file, lines.Text(), err)
			}
			all = append(all, r)
		}
	}
	return all
}

// Killed at any moment, sockdog leaves a journal that is readable to its last whole line, has
// done nothing of which that has no intent, and at the end of the next run settings are what
// they were.
func TestCrashes(t *testing.T) {
	need(t)
	nstest.Isolate(t)
	const setting = "/proc/sys/net/ipv4/tcp_fin_timeout"
	n := crashes
	if testing.Short() {
		n = fewCrashes
	}
	before := must(os.ReadFile(setting))(t)
	dir, ran := filepath.Join(t.TempDir(), "state"), filepath.Join(t.TempDir(), "ran")
	listener := must(nstest.Listen(nstest.V4))(t)
	t.Cleanup(func() { listener.Close() })
	here := func(c *exec.Cmd) { c.SysProcAttr = nil } // in the namespace of this thread
	how := []func(*exec.Cmd){here, by("--source", "sock_diag", "--state-dir", dir, "--control-socket", "off", "--allow", "log,kill,sysctl,exec")}
	random := rand.New(rand.NewPCG(1, 0xc4a54))
	killed, left := map[uint64]bool{}, 0
	for i := range n {
		p := must(nstest.NewPair(listener))(t)
		check(t, p.Server.Close())
		check(t, p.Client.Await(unix.BPF_TCP_CLOSE_WAIT))
		cookie := must(p.Client.Cookie())(t)
		w := begin(t, fmt.Sprintf(crashRules, ran), how...)
		crashesAfter[i%len(crashesAfter)](w)
		time.Sleep(time.Duration(random.Int64N(int64(latestCrash))))
		w.kill()
		if info := must(unix.GetsockoptTCPInfo(int(p.Client), unix.IPPROTO_TCP, unix.TCP_INFO))(t); info.State == unix.BPF_TCP_CLOSE {
			killed[cookie] = true
		}
		if now := must(os.ReadFile(setting))(t); !bytes.Equal(now, before) {
			left++
		}
		check(t, p.Client.Close())
		records := readJournal(t, dir)
		intents, acts := map[uint64]bool{}, map[string]int{}
		dead := map[uint64]bool{}
		for _, r := range records {
			if r.Result == "intent" {
				intents[r.Seq] = true
				acts[r.Action]++
				dead[r.Cookie] = true
			} else if r.Seq != 0 && !intents[r.Seq] {
				t.Fatalf("an outcome without an intent: %+v", r)
			}
		}
		for cookie := range killed {
			if !dead[cookie] {
				t.Fatalf("socket %d was killed, and there is no intent", cookie)
			}
		}
		text, _ := os.ReadFile(ran) // there may be none yet
		if done := strings.Count(string(text), "\n"); done > acts["exec"] {
			t.Fatalf("%d programs were run, by %d intents", done, acts["exec"])
		}
		if left > 0 && acts["sysctl"] == 0 {
			t.Fatal("a setting was changed without an intent")
		}
	}
	t.Logf("%d of %d sockets were killed, and %d times the setting was left changed", len(killed), n, left)
	if len(killed) == 0 || left == 0 {
		t.Error("too little happened to show anything")
	}
	// The last run begins with what is left, and ends in order.
	watch(t, fmt.Sprintf(crashRules, ran), how...).stop()
	if now := must(os.ReadFile(setting))(t); !bytes.Equal(now, before) {
		t.Errorf("the setting is %s at the end, and was %s", now, before)
	}
	intents := map[uint64]int{}
	for _, r := range readJournal(t, dir) {
		if r.Result == "intent" {
			intents[r.Seq]++
		} else if r.Seq != 0 {
			intents[r.Seq]--
		}
	}
	for seq, open := range intents {
		if open > 0 {
			t.Errorf("intent %d has no outcome", seq)
		}
	}
}
