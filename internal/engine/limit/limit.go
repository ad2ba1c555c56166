// Package limit holds the sliding windows that bound how many actions are carried
// out, and nothing of what those are or what waits for them.
package limit

import (
	"fmt"
	"strings"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// Window is a sliding window: no stretch of Limit.Per ever holds more than
// Limit.N actions. An action under way holds its place from the decision until
// its outcome, and the outcome's instant is what counts then: counted from the
// decision, two actions less than Per apart could pass.
type Window struct {
	Limit    rules.Limit
	underWay int
	spent    []sock.Instant // ascending
}

// expire drops what has left the window.
func (w *Window) expire(now sock.Instant) {
	n := 0
	for n < len(w.spent) && now.Sub(w.spent[n]) >= w.Limit.Per {
		n++
	}
	if n == len(w.spent) {
		w.spent = w.spent[:0]
		return
	}
	w.spent = w.spent[n:]
}

// Free returns how many actions may start now.
func (w *Window) Free(now sock.Instant) int {
	w.expire(now)
	return max(0, w.Limit.N-w.underWay-len(w.spent))
}

// FreeAt returns the instant from which an action may start beside so many that are about
// to, or Never where that depends on an outcome still to come.
func (w *Window) FreeAt(now sock.Instant, others int) sock.Instant {
	w.expire(now)
	// A lowered limit can leave more in the window than it may hold.
	switch nth := len(w.spent) + w.underWay + others - w.Limit.N; {
	case nth < 0:
		return now
	case nth >= len(w.spent):
		return sock.Never
	default:
		return w.spent[nth].Add(w.Limit.Per)
	}
}

// Spend counts an action that was done at an instant.
func (w *Window) Spend(at sock.Instant) {
	i := len(w.spent)
	w.spent = append(w.spent, at)
	for ; i > 0 && w.spent[i-1] > at; i-- {
		w.spent[i] = w.spent[i-1]
	}
	w.spent[i] = at
}

// String is the limit as the rules file says it: 1000/1m, not 1000/1m0s.
func (w *Window) String() string {
	per := w.Limit.Per.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(per, zero) {
			per = per[:len(per)-2]
		}
	}
	return fmt.Sprintf("%d/%s", w.Limit.N, per)
}

// Budget is what one rule may still do: its own window and the one that all
// rules share.
type Budget struct{ Own, All *Window }

// Free returns how many actions may start now.
func (b Budget) Free(now sock.Instant) int { return min(b.Own.Free(now), b.All.Free(now)) }

// FreeAt returns the instant from which an action may start beside so many that are about
// to, or Never where that depends on an outcome still to come.
func (b Budget) FreeAt(now sock.Instant, others int) sock.Instant {
	return max(b.Own.FreeAt(now, others), b.All.FreeAt(now, others))
}

// Begin takes a place for an action that is about to start.
func (b Budget) Begin() {
	b.Own.underWay++
	b.All.underWay++
}

// Cancel gives back the place of an action that came to nothing.
func (b Budget) Cancel() {
	b.Own.underWay--
	b.All.underWay--
}

// End turns the place of an action under way into one that expires.
func (b Budget) End(at sock.Instant) {
	b.Cancel()
	b.Own.Spend(at)
	b.All.Spend(at)
}
