// Package sim is a kernel of TCP sockets in simulated time: the truth, to the
// nanosecond, that what watches them is held to. It knows of no watchdog.
package sim

import (
	"container/heap"
	"math/rand/v2"
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
	events events
	serial int
}

// At has do happen at an instant. What is to happen at the same one happens in the
// order in which it was asked for.
func (c *Clock) At(at sock.Instant, do func()) {
	c.serial++
	heap.Push(&c.events, event{at, c.serial, do})
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
	e := heap.Pop(&c.events).(event)
	c.Now = max(c.Now, e.at)
	e.do()
}

type event struct {
	at     sock.Instant
	serial int
	do     func()
}

type events []event

func (q events) Len() int      { return len(q) }
func (q events) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q events) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].serial < q[j].serial
}
func (q *events) Push(x any) { *q = append(*q, x.(event)) }
func (q *events) Pop() any {
	e := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return e
}
