package engine

import (
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// never is later than every instant that can come.
const never = sock.Instant(1<<63 - 1)

// window is a sliding window: no stretch of limit.Per ever holds more than
// limit.N actions. An action under way holds its place from the decision until
// its outcome, and the outcome's instant is what counts then: counted from the
// decision, two actions less than Per apart could pass.
type window struct {
	limit    rules.Limit
	underWay int
	spent    []sock.Instant // ascending
}

// expire drops what has left the window.
func (w *window) expire(now sock.Instant) {
	n := 0
	for n < len(w.spent) && now.Sub(w.spent[n]) >= w.limit.Per {
		n++
	}
	if n == len(w.spent) {
		w.spent = w.spent[:0]
		return
	}
	w.spent = w.spent[n:]
}

// free is how many actions may start now.
func (w *window) free(now sock.Instant) int {
	w.expire(now)
	return max(0, w.limit.N-w.underWay-len(w.spent))
}

// frees is the instant from which an action may start, or never where that
// depends on an outcome still to come.
func (w *window) frees(now sock.Instant) sock.Instant {
	if w.free(now) > 0 {
		return now
	}
	// A lowered limit can leave more in the window than it may hold.
	nth := len(w.spent) + w.underWay - w.limit.N
	if nth >= len(w.spent) {
		return never
	}
	return w.spent[nth].Add(w.limit.Per)
}

// begin takes a place for an action that is about to start.
func (w *window) begin() { w.underWay++ }

// end turns the place of an action under way into one that expires.
func (w *window) end(at sock.Instant) {
	w.underWay--
	w.spend(at)
}

// cancel gives back the place of an action that came to nothing.
func (w *window) cancel() { w.underWay-- }

// spend counts an action of the instant at.
func (w *window) spend(at sock.Instant) {
	i := len(w.spent)
	w.spent = append(w.spent, at)
	for ; i > 0 && w.spent[i-1] > at; i-- {
		w.spent[i] = w.spent[i-1]
	}
	w.spent[i] = at
}

// budget is what one rule may still do: its own window and the one that all
// rules share.
type budget struct{ own, all *window }

func (b budget) free(now sock.Instant) int {
	return min(b.own.free(now), b.all.free(now))
}

func (b budget) frees(now sock.Instant) sock.Instant {
	return max(b.own.frees(now), b.all.frees(now))
}

func (b budget) begin() {
	b.own.begin()
	b.all.begin()
}

func (b budget) cancel() {
	b.own.cancel()
	b.all.cancel()
}

func (b budget) end(at sock.Instant) {
	b.own.end(at)
	b.all.end(at)
}
