// Package sim is a kernel of TCP sockets in simulated time: the truth, to the
// nanosecond, that what watches them is held to. It knows of no watchdog.
package sim

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
)

// Never is an instant that does not come.
const Never = sock.Never

// NewKernel returns a kernel without sockets, in which all that happens follows
// from the seed.
func NewKernel(seed uint64, now sock.Instant) *Kernel {
	return &Kernel{Clock: Clock{Now: now}, Rand: rand.New(rand.NewPCG(seed, 0x50c4d06)), Sockets: make(map[uint64]*Socket)}
}

// UpTo is a random duration in [1ns, d].
func (k *Kernel) UpTo(d time.Duration) time.Duration {
	return time.Duration(k.Rand.Int64N(int64(d))) + 1
}

// Clock is simulated time, and what is to happen in it.
type Clock struct {
	Now    sock.Instant
	events []event // the next first
}

type event struct {
	at sock.Instant
	do func()
}

// At has do happen at an instant. What is to happen at the same one happens in the
// order in which it was asked for.
func (c *Clock) At(at sock.Instant, do func()) {
	later := func(e event, at sock.Instant) int {
		if e.at > at {
			return 1
		}
		return -1
	}
	i, _ := slices.BinarySearchFunc(c.events, at, later)
	c.events = slices.Insert(c.events, i, event{at, do})
}

// Next is when the next thing is to happen, or Never.
func (c *Clock) Next() sock.Instant {
	if len(c.events) == 0 {
		return Never
	}
	return c.events[0].at
}

// Happen has time move on to the next thing, and lets it happen.
func (c *Clock) Happen() {
	e := c.events[0]
	c.events = slices.Delete(c.events, 0, 1)
	c.Now = max(c.Now, e.at)
	e.do()
}
