package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/sockdog/sockdog/internal/action"
	"github.com/sockdog/sockdog/internal/counters"
	"github.com/sockdog/sockdog/internal/daemon"
	"github.com/sockdog/sockdog/internal/holders"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/source/sockdiag"
	"github.com/sockdog/sockdog/rules"
)

const killed = 9_000

// kill times the real daemon among its threads, from its first question about a
// socket to the kernel's answer to the last destroy, and to its answer that the
// last one is gone, against ss -K as a whole.
func (b *bench) kill() error {
	leak, err := b.leaking(killed)
	if err != nil {
		return err
	}
	defer leak.end()
	var ours, withConfirmation, theirs []float64
	for range b.rounds {
		told, confirmed, err := killWithDaemon()
		if err != nil {
			return err
		}
		ours = append(ours, killed/told.Seconds())
		withConfirmation = append(withConfirmation, killed/confirmed.Seconds())
		if err := leak.fill(killed); err != nil {
			return err
		}
		began := time.Now()
		if err := exec.Command("ss", "-KHtn", "state", "close-wait").Run(); err != nil {
			return fmt.Errorf("ss -K: %w", err)
		}
		theirs = append(theirs, killed/time.Since(began).Seconds())
		if err := leak.fill(killed); err != nil {
			return err
		}
	}
	o, c, t := median(ours), median(withConfirmation), median(theirs)
	fmt.Printf("| destroying %d in CLOSE_WAIT, each rechecked | %.0f a second | %.0f a second | %.2f |\n", killed, o, t, o/t)
	fmt.Printf("| the same, until the kernel has confirmed that the last is gone | %.0f a second | %.0f a second | %.2f |\n", c, t, c/t)
	return nil
}

// killWithDaemon runs the daemon until it has killed them all.
func killWithDaemon() (told, confirmed time.Duration, err error) {
	set, err := rules.Parse(strings.NewReader(`
settings: {limit: 1000000/1m}
rules:
  - name: bench
    match: {state: close-wait, in_state_for: 1ms}
    then: [{kill: {limit: 1000000/1m}}]
`))
	if err != nil {
		return 0, 0, err
	}
	now, err := sock.Clock()
	if err != nil {
		return 0, 0, err
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
		Namespaces: []daemon.Namespace{{
			Source:       daemon.SourceOf(open),
			OpenCounters: func() (daemon.Counters, error) { return counters.Open() },
		}},
		Holders: daemon.Holders{FindHolders: func(map[uint32]struct{}) (holders.Found, error) {
			return holders.Found{}, nil // it is no part of what is measured
		}},
		ServiceManager: daemon.ServiceManager{Notify: func(string) {}},
	})
	if err == nil && tap.gone < killed {
		err = fmt.Errorf("only %d of %d were killed within a minute", tap.gone, killed)
	}
	return tap.told.Sub(tap.first), tap.last.Sub(tap.first), err
}

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
