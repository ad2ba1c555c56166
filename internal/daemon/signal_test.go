package daemon_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/daemon"
	"github.com/sockdog/sockdog/internal/journal"
)

// signals are rules that signal whoever leaks, after less time than a file may say.
func (w *world) signals(more string) (stop func() time.Duration) {
	w.Helper()
	set := w.parse(often + more + `
rules:
  - name: leak
    match: {state: close-wait, sport: "6001-6002"}
    group_by: [pid]
    when: count > 2
    for: 1m
    then: [{signal: TERM}]
`)
	w.options.FindHolders = all
	set.Rules[0].For = 300 * time.Millisecond
	return w.watchBy(set)
}

// alive reports whether a child of the test has not ended.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

// The process that leaks is signalled, and no other: not one that leaks less.
func TestSignal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := t.TempDir()
	w.openState(dir)
	leaks, healthy := w.startLeaker("leaks", 6001, 3), w.startLeaker("healthy", 6002, 2)
	stop := w.signals("")
	done := w.await("the signal", func(l line) bool { return l.Msg == "signal done" })
	if done.PID != leaks || !strings.Contains(done.Reason, fmt.Sprintf("count 3 (count > 2): sent SIGTERM to process %d (leaks)", leaks)) {
		t.Errorf("process %d, reason %q; the leaker is %d", done.PID, done.Reason, leaks)
	}
	w.until("the leaker has ended", func() bool { return !alive(leaks) })
	w.await("the end of its group", func(l line) bool { return l.Msg == "group resolved" })
	stop()
	if !alive(healthy) {
		t.Error("another process was signalled")
	}
	w.pairs(dir, "signal", 1)
}

// A process that holds anything protected is left alone: it would end with the process.
func TestSignalProtected(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := t.TempDir()
	w.openState(dir)
	leaks := w.startLeaker("leaks", 6001, 3)
	stop := w.signals("protect: [{sport: 6001, state: listening}]\n")
	w.await("that it is not signalled", func(l line) bool { return l.Msg == "changed before signal" && l.Reason == "protected" })
	stop()
	if !alive(leaks) {
		t.Error("the process was signalled")
	}
	for _, r := range w.records(dir) {
		if r.Action == "signal" && r.Result == journal.Done {
			t.Errorf("it is recorded as done: %+v", r)
		}
	}
}

// New rules that come while it is looked once more at the process keep the signal from it, as a
// pause does.
func TestSignalOfRulesThatAreNoMore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	leaks := w.startLeaker("leaks", 6001, 3)
	read, looked := w.options.ReadSockets, false
	w.options.ReadSockets = func(pid int) (map[uint32][]int, error) {
		if !looked {
			looked = true
			w.rules <- daemon.Reload{Rules: w.parse("rules: []")}
			w.await("the new rules", func(l line) bool { return l.Msg == "rules reloaded" })
		}
		return read(pid)
	}
	stop := w.signals("")
	w.await("that it is not signalled", func(l line) bool { return l.Msg == "changed before signal" && l.Reason == "new rules came first" })
	stop()
	if !alive(leaks) {
		t.Error("the process was signalled")
	}
}
