package daemon_test

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/daemon"
	"github.com/sockdog/sockdog/internal/nstest"
)

// A probe that never ends delays no kill but those that wait for what it says, and no end of
// the watchdog.
func TestProbeHangsBesideKill(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.heldByQuiet()
	asked, release := make(chan string, 10), make(chan struct{})
	t.Cleanup(func() { close(release) })
	w.options.FetchProbe = func(url string) error {
		asked <- url
		<-release
		return errors.New("no answer")
	}
	l, m := w.listen(nstest.V4, 5432), w.listen(nstest.V4, 5433)
	first := w.leak(l)
	w.reach(first.since.Add(apart))
	second := w.leak(l)
	stop := w.watch(often + `
rules:
  - {name: probes, match: {state: close-wait, sport: 5432, in_state_for: 2s}, then: {kill: {canary: {wait: 5s, probe: "http://localhost/healthz"}}}}
  - {name: kills, match: {state: close-wait, sport: 5433, in_state_for: 2s}, then: {kill: {canary: off}}}
`)
	w.dies(first, 2*time.Second)
	if url := <-asked; url != "http://localhost/healthz" {
		t.Errorf("asked %s", url)
	}
	for range 2 { // the second of them when the wait of the canary is over
		if late := w.dies(w.leak(m), 2*time.Second); late > time.Second {
			t.Errorf("a kill beside the probe comes %v late", late)
		}
		w.reach(first.since.Add(8 * time.Second))
	}
	w.lives(second, unix.BPF_TCP_CLOSE_WAIT)
	if took := stop(); took > time.Second {
		t.Errorf("it took %v to stop", took)
	}
}

// apart is how far sockets begin to be stuck from each other whose order is to be seen: the kernel
// counts in ticks of up to 10 ms.
const apart = 50 * time.Millisecond

// A rules file that turns bad while a canary waits neither ends the wait nor the rule.
func TestBadFileWhileACanaryWaits(t *testing.T) {
	t.Parallel()
	const wait = 5 * time.Second
	w := newWorld(t)
	w.heldByQuiet()
	l := w.listen(nstest.V4, 5432)
	first := w.leak(l)
	w.reach(first.since.Add(apart))
	second := w.leak(l)
	w.watch(often + "rules: [{name: leak, match: {state: close-wait, in_state_for: 2s}, then: {kill: {canary: {wait: 5s}}}}]\n")
	w.dies(first, 2*time.Second)
	w.rules <- daemon.Reload{Err: errors.New("it turned bad")}
	w.await("that the file is bad", func(l line) bool { return l.Level == "ERROR" && l.Error == "it turned bad" })
	w.dies(second, 2*time.Second)
	if gap := w.killed(second.cookie)[0].Sub(w.killed(first.cookie)[0]); gap < wait {
		t.Errorf("the second kill came %v after the canary, want %v", gap, wait)
	}
}
