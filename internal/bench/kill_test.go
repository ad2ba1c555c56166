package bench

import (
	"cmp"
	"context"
	"log/slog"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/action"
	"github.com/sockdog/sockdog/internal/counters"
	"github.com/sockdog/sockdog/internal/daemon"
	"github.com/sockdog/sockdog/internal/daemon/daemontest"
	"github.com/sockdog/sockdog/internal/holders"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/source/sockdiag"
	"github.com/sockdog/sockdog/rules"
)

// BenchmarkKill times the real daemon among its threads, from its first question about a
// socket to the kernel's answer to the last destroy, and to its answer that the last one
// is gone, against ss -K as a whole.
func BenchmarkKill(b *testing.B) {
	sockdog(b) // beside a full table
	leak := leaking(b, killed)
	defer leak.end()
	var told, confirmed, theirs []float64 // a second
	for b.Loop() {
		if err := leak.fill(killed); err != nil {
			b.Fatal(err)
		}
		t, c := killWithDaemon(b)
		told, confirmed = append(told, killed/t.Seconds()), append(confirmed, killed/c.Seconds())
		if err := leak.fill(killed); err != nil {
			b.Fatal(err)
		}
		began := time.Now()
		if err := exec.Command("ss", "-KHtn", "state", "close-wait").Run(); err != nil {
			b.Fatal("ss -K: ", err)
		}
		theirs = append(theirs, killed/time.Since(began).Seconds())
	}
	report(b, "kills/s", told)
	report(b, "confirmed-kills/s", confirmed)
	report(b, "ss-kills/s", theirs)
}

// killWithDaemon runs the daemon until it has killed them all.
func killWithDaemon(b *testing.B) (told, confirmed time.Duration) {
	set, err := rules.Parse(strings.NewReader(`
settings: {limit: 1000000/1m}
rules:
  - name: bench
    match: {state: close-wait, in_state_for: 1ms}
    then: [{kill: {limit: 1000000/1m, canary: off, max_matches: 1000000}}]
`))
	if err != nil {
		b.Fatal(err)
	}
	now, err := sock.Clock()
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	tap := &tap{now: now, done: stop}
	open := func() (*tapped, error) {
		c, err := sockdiag.Open(now, nil)
		return &tapped{c, tap}, err
	}
	err = daemon.Run(ctx, daemon.Options{
		Log: slog.New(slog.DiscardHandler), Now: now, Precision: sockdiag.Precision(), Kinds: action.Kinds(), Rules: set,
		Source:         daemontest.SourceOf(open, func() (daemon.Counters, error) { return counters.Open() }),
		Holders:        daemon.Holders{FindHolders: nobody, FindNew: nobody}, // they are no part of what is measured
		ServiceManager: daemon.ServiceManager{Notify: func(string) {}},
	})
	if err != nil || tap.gone < killed {
		b.Fatalf("%d of %d were killed within a minute, error %v", tap.gone, killed, err)
	}
	return tap.told.Sub(tap.first), tap.last.Sub(tap.first)
}

func nobody(map[uint32]struct{}) (found holders.Found, err error) { return found, nil }

// tap notes when the first question is asked and when the last answer is in.
type tap struct {
	now         func() sock.Instant
	done        func()
	mu          sync.Mutex // of what follows
	first, last sock.Instant
	told        sock.Instant // when the kernel answered to the last destroy
	gone        int
}

type tapped struct {
	*sockdiag.Conn
	*tap
}

func (t *tapped) Destroy(id sock.ID) error {
	err := t.Conn.Destroy(id)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.told = t.now()
	return err
}

func (t *tapped) Lookup(ids []sock.ID, answers []sock.Answer) ([]sock.Answer, error) {
	t.mu.Lock()
	t.first = cmp.Or(t.first, t.now())
	t.mu.Unlock()
	answers, err := t.Conn.Lookup(ids, answers)
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range answers {
		if answers[i].Gone {
			t.gone++
		}
	}
	if t.gone >= killed && t.last == 0 {
		t.last = t.now()
		t.done()
	}
	return answers, err
}
