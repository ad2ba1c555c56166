package daemon_test

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/daemon"
	"github.com/sockdog/sockdog/internal/journal"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/status"
)

// TestPause: what is paused at the start acts on nothing, and says so everywhere; then it
// goes on, is paused again, and goes on by itself.
func TestPause(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := t.TempDir()
	w.openState(dir)
	current := w.show()
	pauses := make(chan *status.Pause)
	w.options.Pauses = pauses
	w.options.Paused = &status.Pause{Reason: "the database is moved", By: "uid 7", Since: time.Now(), File: "/state/paused"}
	l := w.listen(nstest.V4, 5432)
	first := w.leak(l)
	w.watch(often + "rules: [{name: leak, match: {state: close-wait, in_state_for: 1s}, then: kill}]\n")
	w.until("a socket that is held back", func() bool {
		s := current()
		return len(s.Rules) == 1 && s.Rules[0].HeldBack["paused"] == 1 && s.Rules[0].Held == 1
	})
	s := current()
	if s.Paused == nil || len(s.Problems) != 1 || s.Verdict() != "paused" ||
		s.Problems[0].Text != "nothing is acted on, acting is paused: the database is moved (uid 7)" || s.Problems[0].Cure != "sockdog resume, or remove /state/paused" {
		t.Errorf("paused %+v, problems %+v, verdict %q", s.Paused, s.Problems, s.Verdict())
	}
	if line := w.await("that it is paused", func(l line) bool { return l.Msg == "acting is paused" }); line.Level != "WARN" || line.Reason != "the database is moved (uid 7)" {
		t.Errorf("the log has %+v", line)
	}
	w.lives(first, unix.BPF_TCP_CLOSE_WAIT)

	pauses <- nil
	w.dies(first, time.Second)
	w.await("that it goes on", func(l line) bool { return l.Msg == "acting is resumed" && l.Reason == "somebody resumed it" })
	w.until("a status without a pause", func() bool { return current().Paused == nil && len(current().Problems) == 0 })

	second := w.leak(l)
	until := time.Now().Add(3 * time.Second)
	pauses <- &status.Pause{Reason: "for a while", By: "uid 7", Since: time.Now(), Until: until}
	w.dies(second, time.Second)
	if at := w.killed(second.cookie)[0]; w.options.Now().Sub(at) > time.Since(until) {
		t.Errorf("killed before the pause was over")
	}
	w.await("that it went on by itself", func(l line) bool { return l.Reason == "the time of the pause is over" })
	pauses <- &status.Pause{Reason: "for a while", By: "uid 7", Until: until} // which the store tells later
	pauses <- &status.Pause{Reason: "for good", By: "uid 7", Since: time.Now()}
	pauses <- &status.Pause{Reason: "until yesterday", By: "uid 7", Since: time.Now(), Until: time.Now().Add(-24 * time.Hour)}
	told := func() (all []string) {
		for _, r := range w.records(dir) {
			if r.Result == journal.Paused || r.Result == journal.Resumed {
				all = append(all, r.Words()+": "+r.Reason)
			}
		}
		return all
	}
	want := []string{
		"acting is paused: the database is moved (uid 7)", "acting is resumed: somebody resumed it",
		"acting is paused: for a while (uid 7, until " + until.Format(time.RFC3339) + ")", "acting is resumed: the time of the pause is over",
		"acting is paused: for good (uid 7)", "acting is resumed: the time of the pause is over",
	}
	w.until("the journal has all of it", func() bool { return len(told()) >= len(want) })
	if diff := cmp.Diff(want, told()); diff != "" {
		t.Errorf("in the journal (-want +got):\n%s", diff)
	}
}

// TestPauseWhileTheClockIsSetBack: a pause lasts until its date, as its file says that stands
// there, however long that takes.
func TestPauseWhileTheClockIsSetBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := t.TempDir()
	w.openState(dir)
	current := w.show()
	var back atomic.Int64 // by how much the wall clock was set back: as much later it is by the other
	now := w.options.Now
	w.options.Now = func() sock.Instant { return now().Add(time.Duration(back.Load())) }
	pauses := make(chan *status.Pause)
	w.options.Pauses = pauses
	s := w.leak(w.listen(nstest.V4, 5432))
	w.watch(often + "rules: [{name: leak, match: {state: close-wait, in_state_for: 3s}, then: kill}]\n")
	until := time.Now().Add(5 * time.Second).Round(0) // a date, as a file has it
	pauses <- &status.Pause{Reason: "for a while", By: "uid 7", Since: time.Now(), Until: until, File: "/state/paused"}
	w.until("the pause", func() bool { return current().Paused != nil })
	back.Store(int64(time.Minute))
	w.until("a socket that is held back", func() bool {
		s := current()
		return len(s.Rules) == 1 && s.Rules[0].HeldBack["paused"] == 1 && s.Paused != nil
	})
	w.result(s.cookie, journal.Done)
	if at := time.Now(); at.Before(until) {
		t.Errorf("killed %v before the pause was over", until.Sub(at))
	}
	w.await("that it goes on", func(l line) bool { return l.Msg == "acting is resumed" && l.Reason == "the time of the pause is over" })
	if n := w.count("acting is "); n != 2 {
		t.Errorf("said %d times that acting is paused or resumed, want once each", n)
	}
}

// TestRuleReset: a rule that had stopped itself in an earlier run goes on when somebody
// resets it, and one that there is not is told from those that there are.
func TestRuleReset(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	resets := make(chan daemon.RuleReset)
	w.options.Resets = resets
	reset := func(rule string) daemon.RuleResetDone {
		done := make(chan daemon.RuleResetDone, 1)
		resets <- daemon.RuleReset{Rule: rule, By: "uid 7", Done: done}
		return <-done
	}
	const text = often + "rules: [{name: leak, match: {state: close-wait, in_state_for: 1s}, then: kill}]\n"
	w.options.Restored.Stops = []sock.RuleStop{{Rule: "leak", Sum: w.parse(text).Rules[0].Sum, Reason: "holder_spins", Since: w.options.Now()}}
	current := w.show()
	s := w.leak(w.listen(nstest.V4, 5432))
	w.watch(text)
	w.until("a socket that is held back", func() bool {
		s := current()
		return len(s.Rules) == 1 && s.Rules[0].HeldBack["stopped"] == 1
	})
	w.lives(s, unix.BPF_TCP_CLOSE_WAIT)
	if done := reset("leek"); done.Was || !slices.Equal(done.Rules, []string{"leak"}) {
		t.Errorf("a rule that there is not: %+v", done)
	}
	if done := reset("leak"); !done.Was || done.Rules != nil {
		t.Errorf("a rule that has stopped itself: %+v", done)
	}
	w.dies(s, time.Second)
	if done := reset("leak"); done.Was || done.Rules != nil {
		t.Errorf("a rule that goes on: %+v", done)
	}
	w.await("who has reset it", func(l line) bool { return l.Msg == "rule reset" && l.Rule == "leak" })
}
