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

// A storm of sockets is due when the watchdog starts: one is killed, and the others wait for
// the verdict; then no window ever holds more than the limit, by what the journal says, and
// what is not killed is recorded as held back.
func TestStormOfSockets(t *testing.T) {
	t.Parallel()
	const n, limit, per, wait = 1000, 100, 2 * time.Second, 5 * time.Second
	w := newWorld(t)
	quiet := exec.Command("sleep", "infinity") // which takes the test's place: how much CPU that uses is not to matter
	check(t, quiet.Start())
	t.Cleanup(func() { quiet.Process.Kill(); quiet.Wait() })
	usage := must(holders.ReadUsage("/proc", quiet.Process.Pid))(t)
	w.options.FindHolders = func(inodes map[uint32]struct{}) (holders.Found, error) {
		found, err := findElsewhere(inodes)
		for _, held := range found.Holders {
			for i := range held {
				held[i].PID, held[i].Start = quiet.Process.Pid, usage.Start
			}
		}
		return found, err
	}
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
