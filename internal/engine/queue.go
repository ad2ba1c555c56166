package engine

import (
	"slices"

	"github.com/sockdog/sockdog/internal/sock"
)

// queue is a priority queue of connections: a heap of their numbers. A connection
// can stand in one queue of each kind.
type queue struct {
	of      *tracks
	kind    queueKind
	numbers []uint32
}

type queueKind uint8

const (
	dueQueue  queueKind = iota // of what is to be attended to, the earliest first
	waitQueue                  // of what a limit holds back, in the order of its rule
)

// place is where t stands in a queue of the kind, counted from one; 0: in none.
func (k queueKind) place(t *tracked) *uint32 {
	if k == dueQueue {
		return &t.due
	}
	return &t.turn
}

func (q *queue) empty() bool     { return len(q.numbers) == 0 }
func (q *queue) first() *tracked { return q.of.at(q.numbers[0]) }

// add has t stand in the queue. What it is ordered by must not change until it
// leaves.
func (q *queue) add(t *tracked) {
	q.numbers = append(q.numbers, q.of.number(t))
	q.up(len(q.numbers) - 1)
}

// leave takes t out of the queue, if it stands in it.
func (q *queue) leave(t *tracked) {
	place := q.kind.place(t)
	if *place == 0 {
		return
	}
	at, last := int(*place-1), len(q.numbers)-1
	*place = 0
	moved := q.numbers[last]
	q.numbers = q.numbers[:last]
	if at < last {
		q.numbers[at] = moved
		q.up(q.down(at))
	}
	if cap(q.numbers) > 1<<10 && len(q.numbers) < cap(q.numbers)/4 {
		q.numbers = slices.Clone(q.numbers)
	}
}

// up moves what stands at a place forward to where it belongs.
func (q *queue) up(at int) {
	number := q.numbers[at]
	t := q.of.at(number)
	for at > 0 {
		parent := (at - 1) / 2
		if !q.before(t, q.of.at(q.numbers[parent])) {
			break
		}
		q.put(at, q.numbers[parent])
		at = parent
	}
	q.put(at, number)
}

// down moves what stands at a place back to where it belongs, and returns where
// that is.
func (q *queue) down(at int) int {
	number := q.numbers[at]
	t := q.of.at(number)
	for {
		child := 2*at + 1
		if child >= len(q.numbers) {
			break
		}
		if child+1 < len(q.numbers) && q.before(q.of.at(q.numbers[child+1]), q.of.at(q.numbers[child])) {
			child++
		}
		if !q.before(q.of.at(q.numbers[child]), t) {
			break
		}
		q.put(at, q.numbers[child])
		at = child
	}
	q.put(at, number)
	return at
}

func (q *queue) put(at int, number uint32) {
	q.numbers[at] = number
	*q.kind.place(q.of.at(number)) = uint32(at + 1)
}

// before breaks ties, so that the order does not hang on that of a table.
func (q *queue) before(a, b *tracked) bool {
	if q.kind == dueQueue && a.rank != b.rank {
		return a.rank < b.rank
	}
	if x, y := a.order(), b.order(); x != y {
		return x < y
	}
	return a.Cookie < b.Cookie
}

// order is the place of t among those that are due at the same instant, or that a
// limit holds back: the lowest comes first.
func (t *tracked) order() sock.Instant {
	if t.is(newestFirst) {
		return -t.Entered()
	}
	return t.Entered()
}
