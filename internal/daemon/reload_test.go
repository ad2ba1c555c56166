package daemon_test

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/daemon"
	"github.com/sockdog/sockdog/internal/nstest"
)

const (
	leakAfter4s = "  - {name: leak, match: {state: close-wait, dport: 5432, in_state_for: 4s}, then: kill}\n"
	another     = "  - {name: another, match: {state: close-wait, dport: 5433, in_state_for: 2s}, then: kill}\n"
)

// A rule that says what it said before goes on where it was, and one that is new,
// changed or gone is in force at once.
func TestReload(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l, m := w.listen(nstest.V4, 5432), w.listen(nstest.V4, 5433)
	connected := func(l nstest.Socket) nstest.Pair {
		p := w.pair(l)
		check(t, p.Client.Keepalive())
		check(t, p.Server.Keepalive())
		return p
	}
	w.watch(often + "rules:\n" + leakAfter4s)
	p, q := connected(l), connected(m)
	s := w.hangUp(p.Client, p.Server.CloseWrite)
	other := w.hangUp(q.Client, q.Server.CloseWrite)
	w.reach(s.since.Add(3200 * time.Millisecond))
	w.lives(other, unix.BPF_TCP_CLOSE_WAIT)

	reloaded := w.options.Now()
	w.rules <- daemon.Reload{Rules: w.parse(often + "rules:\n" + another + leakAfter4s)}
	w.dies(s, 4*time.Second)
	w.knownBefore(s, reloaded)
	w.dies(other, 2*time.Second)

	w.rules <- daemon.Reload{Rules: w.parse(often + "rules:\n" + leakAfter4s)}
	p, q = connected(l), connected(m)
	other = w.hangUp(q.Client, q.Server.CloseWrite)
	w.dies(w.hangUp(p.Client, p.Server.CloseWrite), 4*time.Second)
	w.lives(other, unix.BPF_TCP_CLOSE_WAIT)
}

// Rules with a mistake change nothing.
func TestBadReload(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.pair(w.listen(nstest.V4, 5432))
	check(t, p.Client.Keepalive())
	w.watch(often + "rules:\n" + leakAfter4s)
	s := w.hangUp(p.Client, p.Server.CloseWrite)
	w.reach(s.since.Add(3200 * time.Millisecond))
	reloaded := w.options.Now()
	w.rules <- daemon.Reload{Err: errors.New("line 3: unknown key: mach")}
	w.rules <- daemon.Reload{Rules: w.options.Rules, Again: true}
	w.dies(s, 4*time.Second)
	w.knownBefore(s, reloaded)
	bad := w.lines(func(l line) bool { return strings.HasPrefix(l.Msg, "the rules were not reloaded") })
	if len(bad) != 1 || bad[0].Level != "ERROR" || !strings.Contains(bad[0].Error, "unknown key: mach") {
		t.Errorf("lines about the bad rules: %+v, want one error that says what is wrong", bad)
	}
}

// The service manager hears what happens (sd_notify(3)).
func TestNotify(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var mu sync.Mutex
	var heard []string
	w.options.Notify = func(state string) {
		mu.Lock()
		defer mu.Unlock()
		heard = append(heard, state)
	}
	hears := func(what string) {
		t.Helper()
		w.until(what+" for the service manager", func() bool {
			mu.Lock()
			defer mu.Unlock()
			for i, state := range heard {
				if strings.HasPrefix(state, what) {
					heard = heard[i+1:]
					return true
				}
			}
			return false
		})
	}
	w.options.WatchdogEvery = 100 * time.Millisecond
	stop := w.watch(often + leaked)
	hears("READY=1\nSTATUS=1 rules")
	hears("WATCHDOG=1")
	w.rules <- daemon.Reload{Rules: w.parse(often + "rules:\n" + another + leakAfter4s)}
	hears("RELOADING=1\nMONOTONIC_USEC=")
	hears("READY=1\nSTATUS=2 rules")
	w.rules <- daemon.Reload{Err: errors.New("bad")}
	hears("RELOADING=1\nMONOTONIC_USEC=")
	hears("READY=1\nSTATUS=2 rules")
	stop()
	hears("STOPPING=1")
}
