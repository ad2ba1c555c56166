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
			w.reach(all[5].since.Add(time.Second + 50*time.Millisecond)) // all are due at the first scan
			w.watch(text)
			var told []sock.Instant
			for _, s := range all {
				w.dies(s, time.Second)
				told = append(told, w.killed(s.cookie)...)
			}
			if name == "the newest first" {
				slices.Reverse(told)
			}
			inTime := slices.Sorted(slices.Values(told))
			later := slices.DeleteFunc(slices.Clone(told), func(at sock.Instant) bool { return at <= inTime[1] })
			if !slices.IsSorted(later) {
				t.Errorf("held sockets were killed in another order than their rule's: %v", later)
			}
			told = inTime
			for i := 2; i < len(told); i++ {
				if apart := told[i].Sub(told[i-2]); apart < 2*time.Second {
					t.Errorf("three were killed within %v", apart)
				}
			}
			var summary []journal.Record
			w.until("summary in the journal", func() bool {
				summary = w.held(dir)
				return len(summary) > 0
			})
			if len(summary) != 1 || summary[0].Sockets != 4 || summary[0].Rule != "leak" || summary[0].Cookie != 0 {
				t.Errorf("summaries in the journal: %+v, want one of 4 sockets", summary)
			}
			if told := w.lines(held); len(told) != 1 || told[0].Sockets != 4 {
				t.Errorf("summaries in the log: %+v, want one of 4 sockets", told)
			}
		})
	}
}

// held is a line of what a limit holds back.
func held(l line) bool { return l.Msg == "kill held" }

// held are the summaries in the journal of what limits hold back.
func (w *world) held(dir string) []journal.Record {
	w.Helper()
	return slices.DeleteFunc(w.records(dir), func(r journal.Record) bool { return r.Result != journal.Held })
}

// Neither a restart nor a reload gives a rule a second helping.
func TestLimitOutlives(t *testing.T) {
	t.Parallel()
	const text = often + "rules: [{name: leak, match: {state: close-wait, in_state_for: 1s}, then: {kill: {limit: 2/1h}}}]\n"
	const changed = often + "rules: [{name: leak, description: mended, match: {state: close-wait, in_state_for: 1s}, then: {kill: {limit: 2/1h}}}]\n"
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
			current := w.show()
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
			w.leak(w.listen(nstest.V6, 5432))
			w.until("a third socket that is held", func() bool {
				rules := current().Rules
				return len(rules) == 1 && rules[0].Actions["kill"][journal.Held] == 3
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
	stop := w.watch(often + "rules: [{name: leak, match: {state: close-wait, in_state_for: 1s}, then: {kill: {limit: 1/4s}}}]\n")
	w.until("summary of two that are held", func() bool { return len(w.held(dir)) > 0 })
	left := slices.DeleteFunc(slices.Clone(all), func(s stuck) bool { return len(w.killed(s.cookie)) > 0 })
	if len(left) != 2 || w.held(dir)[0].Waiting != 2 {
		t.Fatalf("%d are left, and said to be held: %+v", len(left), w.held(dir))
	}
	check(t, left[0].Close()) // the program closes it after all
	w.dies(left[1], time.Second)
	stop() // and says what there is to say
	if said := w.held(dir); len(said) != 2 || said[1].LetGo != 1 || said[1].Waiting != 0 {
		t.Errorf("summaries in the journal: %+v, want a second one, of one that ended by itself", said)
	}
	if told := w.killed(left[0].cookie); len(told) > 0 {
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
