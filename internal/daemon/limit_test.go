package daemon_test

import (
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/daemon"
	"github.com/sockdog/sockdog/internal/journal"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
)

// leaks makes sockets that are stuck one after the other.
func (w *world) leaks(n int) []stuck {
	w.Helper()
	l := w.listen(nstest.V4, 5432)
	all := make([]stuck, n)
	for i := range all {
		all[i] = w.leak(l)
		w.reach(all[i].since.Add(20 * time.Millisecond)) // more than a jiffy, so that their order is known
	}
	return all
}

// What the limit holds back waits, in order, until the window frees, and no
// stretch of its length ever holds more.
func TestLimit(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"of the rule":      often + "rules: [{name: leak, match: {state: close-wait, in_state_for: 1s}, then: {kill: {limit: 2/2s}}}]\n",
		"of all rules":     "settings: {interval: 200ms, cpu_budget: 100%, limit: 2/2s}\n" + "rules: [{name: leak, match: {state: close-wait, in_state_for: 1s}, then: kill}]\n",
		"the newest first": often + "rules: [{name: leak, match: {state: close-wait, in_state_for: 1s}, then: {kill: {limit: 2/2s, order: newest}}}]\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			dir := t.TempDir()
			w.openState(dir)
			all := w.leaks(6)
			w.reach(all[5].since.Add(time.Second + 50*time.Millisecond)) // all are due at the first look
			w.watch(text)
			var told []sock.Instant
			for _, s := range all {
				w.dies(s, time.Second)
				told = append(told, w.killed(s.cookie)...)
			}
			if name == "the newest first" {
				slices.Reverse(told)
			}
			first := slices.Min(told)
			held := slices.DeleteFunc(slices.Clone(told), func(at sock.Instant) bool { return at == first })
			if !slices.IsSorted(held) {
				t.Errorf("held sockets were killed in another order than their rule's: %v", held)
			}
			slices.Sort(told)
			for i := 2; i < len(told); i++ {
				if apart := told[i].Sub(told[i-2]); apart < 2*time.Second {
					t.Errorf("three were killed within %v", apart)
				}
			}
			recorded := make(map[uint64]int)
			for _, r := range w.records(dir) {
				if r.Result == journal.Held {
					recorded[r.Cookie]++
				}
			}
			if len(recorded) != 4 {
				t.Errorf("%d sockets in the journal were held, want 4", len(recorded))
			}
			for _, n := range recorded {
				if n != 1 {
					t.Errorf("a held socket has %d lines in the journal, want 1", n)
				}
			}
			summary := w.lines(func(l line) bool { return l.Msg == "held back by a limit" })
			if len(summary) != 1 || summary[0].Sockets != 4 {
				t.Errorf("summaries in the log: %+v, want one of 4 sockets", summary)
			}
			if told := w.lines(func(l line) bool { return l.Result == "held" }); len(told) > 0 {
				t.Errorf("%d held sockets are in the log, want them in the journal only", len(told))
			}
		})
	}
}

// Neither a restart nor a reload gives a rule a second helping.
func TestLimitOutlives(t *testing.T) {
	t.Parallel()
	const text = often + "rules: [{name: leak, match: {state: close-wait, in_state_for: 1s}, then: {kill: {limit: 2/1h}}}]\n"
	const changed = often + "rules: [{name: leak, description: mended, match: {state: close-wait, in_state_for: 1s}, then: {kill: {limit: 2/1h}}}]\n"
	held := func(l line) bool { return l.Msg == "held back by a limit" }
	for name, outlive := range map[string]func(w *world, stop func()){
		"a restart": func(w *world, stop func()) {
			stop()
			w.watch(text)
		},
		"a reload": func(w *world, _ func()) { w.rules <- daemon.Reload{Rules: w.parse(changed)} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			dir := t.TempDir()
			closeState := w.openState(dir)
			w.leaks(4)
			stop := w.watch(text)
			w.await("what is held back", held)
			outlive(w, func() {
				stop()
				closeState()
				w.openState(dir)
			})
			late := w.leak(w.listen(nstest.V6, 5432))
			w.until("record that it is held", func() bool {
				return slices.ContainsFunc(w.records(dir), func(r journal.Record) bool {
					return r.Cookie == late.cookie && r.Result == journal.Held
				})
			})
			if n := w.kills(); n != 2 {
				t.Errorf("%d sockets were killed, want 2", n)
			}
		})
	}
}

// A held socket that has ended by itself is let go.
func TestHeldThenGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := t.TempDir()
	w.openState(dir)
	all := w.leaks(3)
	w.watch(often + "rules: [{name: leak, match: {state: close-wait, in_state_for: 1s}, then: {kill: {limit: 1/4s}}}]\n")
	var held []stuck // in their order
	w.until("record that two are held", func() bool {
		held = slices.DeleteFunc(slices.Clone(all), func(s stuck) bool {
			return !slices.ContainsFunc(w.records(dir), func(r journal.Record) bool {
				return r.Cookie == s.cookie && r.Result == journal.Held
			})
		})
		return len(held) == 2
	})
	check(t, held[0].Close()) // the program closes it after all
	w.dies(held[1], time.Second)
	w.result(held[0].cookie, journal.Gone)
	if told := w.killed(held[0].cookie); len(told) > 0 {
		t.Error("the kernel was told to destroy a socket that had ended")
	}
}

// A dry run says what would be done, once, and touches nothing.
func TestDryRun(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"of the rule": often + "rules: [{name: leak, dry_run: true, match: {state: close-wait, in_state_for: 1s}, then: kill}]\n",
		"of all":      "settings: {interval: 200ms, cpu_budget: 100%, dry_run: true}\nrules: [{name: leak, match: {state: close-wait, in_state_for: 1s}, then: kill}]\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.says(text, "kill would", true)
		})
	}
}

// A rule without actions says what it matches, once.
func TestLogOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.says(often+"rules: [{name: leak, match: {state: close-wait, in_state_for: 1s}}]\n", "log done", false)
}

// says checks that each socket gets one line in the log, and nothing else.
func (w *world) says(text, result string, dry bool) {
	w.Helper()
	w.watch(text)
	l := w.listen(nstest.V4, 5432)
	said := func(s stuck) line {
		return w.await("line about the socket", func(l line) bool { return l.Cookie == s.cookie })
	}
	first := w.leak(l)
	if l := said(first); l.DryRun != dry {
		w.Errorf("dry_run %v in %+v, want %v", l.DryRun, l, dry)
	}
	for range 2 { // a whole bound later each
		said(w.leak(l))
	}
	if got := w.results(first.cookie); !slices.Equal(got, []string{result}) {
		w.Errorf("results %q, want %q once", got, result)
	}
	if n := w.kills(); n != 0 {
		w.Errorf("the kernel was told to destroy %d sockets, want none", n)
	}
	w.lives(first, unix.BPF_TCP_CLOSE_WAIT)
}
