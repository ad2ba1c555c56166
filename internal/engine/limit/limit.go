// Package limit bounds how many actions are carried out, by sliding windows. It knows
// neither what those are nor what waits for them.
package limit

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// Window is a sliding window: no stretch of Limit.Per ever holds more than
// Limit.N actions. An action under way holds its place from the decision until
// its outcome, and the outcome's instant is what counts then: counted from the
// decision, two actions less than Per apart could pass.
type Window struct {
	Limit    rules.Limit
	Fixed    bool // its length stays as it is: what has left it is forgotten
	Closed   bool // no more may start, whatever there is room for
	underWay int
	granted  int            // see Throttle.Grant
	spent    []sock.Instant // ascending; some of them may have left it
}

// mostLeft is how many actions are remembered that have left a window: it may be made longer,
// and they count again.
const mostLeft = 5000

// counting returns the actions that count now, and forgets what has left for good.
func (w *Window) counting(now sock.Instant) []sock.Instant {
	left, _ := slices.BinarySearch(w.spent, now.Add(1-w.Limit.Per))
	keep := mostLeft
	if w.Fixed {
		keep = 0
	}
	if n := left - keep; n > 0 {
		w.spent, left = w.spent[n:], keep
	}
	return w.spent[left:]
}

// Free returns how many more actions may start now, or be let go on.
func (w *Window) Free(now sock.Instant) int {
	if w.Closed {
		return 0
	}
	return max(0, w.Limit.N-w.underWay-w.granted-len(w.counting(now)))
}

// FreeAt returns the instant from which one more may, or Never where that depends on an
// outcome still to come, or the window is closed.
func (w *Window) FreeAt(now sock.Instant) sock.Instant {
	if w.Closed {
		return sock.Never
	}
	spent := w.counting(now)
	// A lowered limit can leave more in the window than it may hold.
	switch nth := len(spent) + w.underWay + w.granted - w.Limit.N; {
	case nth < 0:
		return now
	case nth >= len(spent):
		return sock.Never
	default:
		return spent[nth].Add(w.Limit.Per)
	}
}

// SpentBefore is how many actions that still count now were done before an instant.
func (w *Window) SpentBefore(at, now sock.Instant) int {
	n, _ := slices.BinarySearch(w.counting(now), at)
	return n
}

// Idle reports whether nothing counts any more.
func (w *Window) Idle(now sock.Instant) bool {
	return w.underWay+w.granted+len(w.counting(now)) == 0
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

// Throttle is what may still be done of something: as much as each of its windows leaves,
// which it may share with others.
type Throttle []*Window

// Grant keeps places for n more actions that are let go on and not decided yet; below 0,
// as many of those are given back.
func (t Throttle) Grant(n int) {
	for _, w := range t {
		w.granted += n
	}
}

// Granted is how many places are kept in the window.
func (w *Window) Granted() int { return w.granted }

// Ungrant gives back all places that are kept.
func (w *Window) Ungrant() { w.granted = 0 }

// Room returns how many more actions may start, or be let go on, now.
func (t Throttle) Room(now sock.Instant) int {
	room := math.MaxInt
	for _, w := range t {
		room = min(room, w.Free(now))
	}
	return room
}

// RoomAt returns the instant from which one more may be let go on, or Never where that
// depends on an outcome still to come.
func (t Throttle) RoomAt(now sock.Instant) (at sock.Instant) {
	for _, w := range t {
		at = max(at, w.FreeAt(now))
	}
	return at
}

// Begin takes a place for an action that is about to start.
func (t Throttle) Begin() {
	for _, w := range t {
		w.underWay++
	}
}

// Cancel gives back the place of an action that came to nothing.
func (t Throttle) Cancel() {
	for _, w := range t {
		w.underWay--
	}
}

// End turns the place of an action under way into one that expires.
func (t Throttle) End(at sock.Instant) {
	t.Cancel()
	t.Spend(at)
}

// Spend counts an action that was done at an instant.
func (t Throttle) Spend(at sock.Instant) {
	for _, w := range t {
		w.Spend(at)
	}
}

const (
	summaryEvery = time.Minute
	// summarySettle lets what is held back together be summed up together.
	summarySettle = time.Second
)

// Summary is when to sum up what throttles hold back: each minute for as long as they do.
type Summary struct {
	At   sock.Instant // Never: there is nothing to say
	last sock.Instant
}

// NewSummary returns a Summary of nothing.
func NewSummary() Summary { return Summary{At: sock.Never, last: sock.Instant(-summaryEvery)} }

// Soon has what is held back now summed up, a minute after the last time at the earliest.
func (s *Summary) Soon(now sock.Instant) {
	if s.At == sock.Never {
		s.At = max(now.Add(summarySettle), s.last.Add(summaryEvery))
	}
}

// Done notes whether anything was said, and whether there will be something again.
func (s *Summary) Done(said, again bool, now sock.Instant) {
	s.At = sock.Never
	if said {
		s.last = now
	}
	if again {
		s.At = now.Add(summaryEvery)
	}
}
