package daemon_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/journal"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
)

// A program is run once for a firing, is handed the event, and leaves an intent and an
// outcome in the journal. A later firing within the cooldown runs it no more.
func TestExec(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir, out := t.TempDir(), filepath.Join(t.TempDir(), "events")
	w.openState(dir)
	w.options.Host = "shop"
	var scans atomic.Int32
	w.scan = func(k kernel, q sock.Query, each func(*sock.Socket, sock.Instant)) error {
		scans.Add(1)
		return k.Scan(q, each)
	}
	l := w.listen(nstest.V4, 5432)
	first := w.leak(l)
	stop := w.watch(often + fmt.Sprintf(`
rules:
  - name: leak
    match: {state: close-wait}
    group_by: [sport]
    when: count > 1
    cooldown: 1h
    then:
      - exec: {command: [/bin/sh, -c, "cat >>$1; echo $SOCKDOG_RULE $SOCKDOG_GROUP_SPORT $SOCKDOG_SOCKETS $SOCKDOG_INSTANCE >>$1.env; echo said; exit 3", sh, %s]}
      - exec: {command: [/bin/true]}
`, out))
	w.leak(l)
	failed := w.await("the outcome", func(l line) bool { return l.Msg == "exec failed" })
	if !strings.Contains(failed.Reason, "count 2 (count > 1): /bin/sh: exit status 3; its output ends: said") {
		t.Errorf("the reason is %q", failed.Reason)
	}
	w.await("that the next is done all the same", func(l line) bool { return l.Msg == "exec done" })
	text := must(os.ReadFile(out))(t)
	var event struct {
		Rule, Action, Result, Instance string
		Sockets                        int
		Group                          map[string]string
	}
	if err := json.Unmarshal(text, &event); err != nil || event.Rule != "leak" || event.Action != "exec" || event.Result != "firing" || event.Sockets != 2 || event.Group["sport"] == "" || event.Instance != "shop" {
		t.Errorf("the event is %s: %+v, error %v", text, event, err)
	}
	if env := must(os.ReadFile(out + ".env"))(t); string(env) != fmt.Sprintf("leak %s 2 shop\n", event.Group["sport"]) {
		t.Errorf("in the environment there is %q", env)
	}
	// It fires again, within the cooldown.
	check(t, first.Close())
	w.await("the end of the firing", func(l line) bool { return l.Msg == "group resolved" })
	w.leak(l)
	w.until("it fires again", func() bool { return w.count("group firing") == 2 })
	fires := scans.Load()
	w.until("more scans show it", func() bool { return scans.Load() > fires+2 })
	stop()
	if n := w.count("exec "); n != 2 {
		t.Errorf("%d programs were run, want 2", n)
	}
	w.pairs(dir, "exec", 2)
}

// pairs holds the journal to so many intents of an action, each with its outcome after it.
func (w *world) pairs(dir, action string, n int) {
	w.Helper()
	intents := map[uint64]bool{}
	outcomes := 0
	for _, r := range w.records(dir) {
		switch {
		case r.Action != action:
		case r.Result == journal.Intent:
			intents[r.Seq] = true
		case !intents[r.Seq]:
			w.Errorf("an outcome without an intent: %+v", r)
		default:
			outcomes++
		}
	}
	if len(intents) != n || outcomes != n {
		w.Errorf("%d intents and %d outcomes of %s in the journal, want %d of each", len(intents), outcomes, action, n)
	}
}

// A program that hangs delays no kill, and ends with sockdog, within a second.
func TestExecHangsBesideKill(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := t.TempDir()
	w.openState(dir)
	l := w.listen(nstest.V4, 5432)
	w.leak(l)
	stop := w.watch(often + `
rules:
  - name: hangs
    match: {state: close-wait}
    when: count > 0
    then: [{exec: {command: [/bin/sleep, "1000"], timeout: 10m}}]
  - name: kills
    match: {state: close-wait, in_state_for: 2s}
    then: [kill]
`)
	w.until("the program runs", func() bool {
		for _, r := range w.records(dir) {
			if r.Action == "exec" && r.Result == journal.Intent {
				return true
			}
		}
		return false
	})
	s := w.leak(l)
	if late := w.dies(s, bound); late > time.Second {
		t.Errorf("the kill came %v late", late)
	}
	if took := stop(); took > time.Second {
		t.Errorf("it took %v to stop", took)
	}
	w.await("how it ended", func(l line) bool {
		return l.Msg == "exec failed" && strings.Contains(l.Reason, "sockdog was told to stop")
	})
	w.pairs(dir, "exec", 1)
}
