package engine

import (
	"container/heap"

	"github.com/sockdog/sockdog/internal/sock"
)

// queue is a priority queue of tracks.
type queue struct{ seats []*seat }

// seat is a track's place in a queue. A track has one for each kind of queue
// that it can stand in.
type seat struct {
	track *tracked
	rank  sock.Instant // the lowest comes first
	in    *queue       // nil: in none
	place int
}

func (q *queue) empty() bool     { return len(q.seats) == 0 }
func (q *queue) first() *tracked { return q.seats[0].track }

// add has s stand in the queue, and in no other.
func (q *queue) add(s *seat, rank sock.Instant) {
	s.leave()
	s.in, s.rank = q, rank
	heap.Push((*byRank)(q), s)
}

// leave takes s out of the queue it stands in, if any.
func (s *seat) leave() {
	if s.in == nil {
		return
	}
	heap.Remove((*byRank)(s.in), s.place)
	s.in = nil
}

// byRank is the queue as container/heap wants it.
type byRank queue

func (q *byRank) Len() int { return len(q.seats) }

// Less breaks ties, so that the order does not hang on that of a map.
func (q *byRank) Less(i, j int) bool {
	a, b := q.seats[i], q.seats[j]
	switch {
	case a.rank != b.rank:
		return a.rank < b.rank
	case a.track.order != b.track.order:
		return a.track.order < b.track.order
	default:
		return a.track.ID.Cookie < b.track.ID.Cookie
	}
}

func (q *byRank) Swap(i, j int) {
	q.seats[i], q.seats[j] = q.seats[j], q.seats[i]
	q.seats[i].place, q.seats[j].place = i, j
}

func (q *byRank) Push(x any) {
	s := x.(*seat)
	s.place = len(q.seats)
	q.seats = append(q.seats, s)
}

func (q *byRank) Pop() any {
	last := len(q.seats) - 1
	s := q.seats[last]
	q.seats[last] = nil
	q.seats = q.seats[:last]
	return s
}
