package daemon_test

import (
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/holders"
	"github.com/sockdog/sockdog/internal/journal"
	"github.com/sockdog/sockdog/internal/nstest"
)

// heldByQuiet has another process take the test's place: how much CPU that uses is not to matter.
func (w *world) heldByQuiet() {
	w.Helper()
	quiet := exec.Command("sleep", "infinity")
	check(w, quiet.Start())
	w.Cleanup(func() { quiet.Process.Kill(); quiet.Wait() })
	usage := must(holders.ReadUsage("/proc", quiet.Process.Pid))(w)
	w.options.FindHolders = func(inodes map[uint32]struct{}) (holders.Found, error) {
		found, err := findElsewhere(inodes)
		for _, held := range found.Holders {
			for i := range held {
				held[i].PID, held[i].Start = quiet.Process.Pid, usage.Start
			}
		}
		return found, err
	}
}

// An upgrade while a canary waits: the new run begins it anew with one more kill, and waits for
// its own verdict before it goes on.
func TestUpgradeWhileACanaryWaits(t *testing.T) {
	t.Parallel()
	const n, wait = 20, 5 * time.Second
	w := newWorld(t)
	w.heldByQuiet()
	dir := t.TempDir()
	closeState := w.openState(dir)
	l := w.listen(nstest.V4, 5432)
	var last stuck
	for range n {
		last = w.leak(l)
	}
	w.reach(last.since.Add(1100 * time.Millisecond))
	const text = often + "rules: [{name: leak, match: {state: close-wait, in_state_for: 1s}, then: {kill: {canary: {wait: 5s}}}}]\n"
	stop := w.watch(text)
	w.until("the canary", func() bool { return w.kills() == 1 })
	stop()
	closeState()
	w.openState(dir)
	stop = w.watch(text)
	w.until("the rest", func() bool { return w.kills() == n })
	stop()
	var done []time.Time
	for _, r := range w.records(dir) {
		if r.Result == journal.Done {
			done = append(done, r.Time)
		}
	}
	slices.SortFunc(done, time.Time.Compare)
	if gap := done[2].Sub(done[1]); len(done) != n || gap < wait {
		t.Errorf("%d kills, the third %v after the canary of the second run, before its verdict", len(done), gap)
	}
}

// A storm of sockets is due when the watchdog starts: one is killed, and the others wait for
// the verdict; then no window ever holds more than the limit, by what the journal says, and
// what is not killed is recorded as held back.
func TestStormOfSockets(t *testing.T) {
	t.Parallel()
	const n, limit, per, wait = 1000, 100, 2 * time.Second, 5 * time.Second
	w := newWorld(t)
	w.heldByQuiet()
	dir := t.TempDir()
	w.openState(dir)
	l := w.listen(nstest.V4, 5432)
	var last stuck
	for range n {
		last = w.leak(l)
	}
	w.reach(last.since.Add(1100 * time.Millisecond))
	stop := w.watch(often + "rules: [{name: leak, match: {state: close-wait, in_state_for: 1s}, then: {kill: {limit: 100/2s, canary: {wait: 5s}}}}]\n")
	w.until("some windows full of kills", func() bool { return w.kills() >= 4*limit })
	stop()
	var done []time.Time
	began, left := 0, 0
	for _, r := range w.records(dir) {
		switch r.Result {
		case journal.Done:
			done = append(done, r.Time)
		case journal.Held:
			began, left = began+r.Sockets, r.Waiting
		}
	}
	slices.SortFunc(done, time.Time.Compare)
	if gap := done[1].Sub(done[0]); gap < wait {
		t.Errorf("the second kill came %v after the first, before the verdict", gap)
	}
	for i := limit; i < len(done); i++ {
		if within := done[i].Sub(done[i-limit]); within < per {
			t.Fatalf("%d kills within %v", limit+1, within)
		}
	}
	// What the second window takes was never said to wait, where its holder was looked for meanwhile.
	if began < n-2*limit || left+len(done) < n-2*limit || left+len(done) > n {
		t.Errorf("%d killed, %d recorded as held back, %d of those still wait; there were %d", len(done), began, left, n)
	}
}
