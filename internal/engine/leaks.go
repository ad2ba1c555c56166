package engine

import (
	"cmp"
	"log/slog"
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/engine/spin"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sock"
)

const (
	// manyReturns is how often a leak that was healed comes back within returnsPer until
	// killing is not the cure.
	manyReturns = 3
	returnsPer  = time.Hour
	// maxLeaks bounds how many processes are remembered for that of a rule.
	maxLeaks = 1000
)

// leakage is what a process does whose sockets a rule has killed. What was stuck before the
// first of them was killed is one leak; what got stuck later is the next, which came back.
type leakage struct {
	holder  sock.Holder
	began   sock.Instant   // the first kill of the present leak
	returns []sock.Instant // when it came back, within returnsPer
	told    bool           // that this was often
}

// Leaker is a process whose leak comes back again and again.
type Leaker struct {
	sock.Holder
	Returns int // within an hour
}

// noteKill takes in that the rule has had a socket killed that had entered its state then.
func (e *Engine) noteKill(r *ruleState, t *tracked, now sock.Instant) {
	p := t.watched()
	if p == (spin.Process{}) {
		return
	}
	h := r.history
	l := h.leaks[p]
	switch {
	case l == nil && len(h.leaks) < maxLeaks:
		if h.leaks == nil {
			h.leaks = make(map[spin.Process]*leakage)
		}
		h.leaks[p] = &leakage{holder: t.heldBy()[0], began: now}
		return
	case l == nil || t.Entered() <= l.began:
		return
	}
	l.began = now
	l.returns = append(l.returns, now)
	l.forget(now)
	if len(l.returns) >= manyReturns && !l.told {
		l.told, e.problemsAt = true, 0
		e.note(LeakReturns, slog.String("rule", r.Name), slog.Int("pid", p.PID), slog.String("comm", l.holder.Comm), slog.Int("returns", len(l.returns)))
	}
}

// forget forgets the returns that were long ago.
func (l *leakage) forget(now sock.Instant) {
	l.returns = slices.DeleteFunc(l.returns, func(at sock.Instant) bool { return now.Sub(at) >= returnsPer })
	l.told = l.told && len(l.returns) > 0
}

// leakers returns the processes whose leaks come back often, and forgets those that have
// not leaked for long.
func (h *history) leakers(now sock.Instant) (all []Leaker) {
	for p, l := range h.leaks {
		l.forget(now)
		if len(l.returns) == 0 && now.Sub(l.began) >= returnsPer {
			delete(h.leaks, p)
		} else if len(l.returns) >= manyReturns {
			all = append(all, Leaker{l.holder, len(l.returns)})
		}
	}
	slices.SortFunc(all, func(a, b Leaker) int { return cmp.Or(b.Returns-a.Returns, a.PID-b.PID) })
	return all
}

// Descriptors is what became of the descriptors of killed sockets, some seconds later.
type Descriptors struct{ Closed, Open, Unknown uint64 }

// add counts a socket by who holds it now.
func (d *Descriptors) add(held *subject.Holders) {
	switch {
	case len(held.Processes) > 0:
		d.Open++
	case held.Complete:
		d.Closed++
	default:
		d.Unknown++ // one that cannot be read may hold it
	}
}
