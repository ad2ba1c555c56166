package table

import "iter"

// chunk is how many entries of a List stand together.
const chunk = 1 << 9

// List grows without being copied.
type List[T any] struct {
	chunks [][]T // of chunk each, or fewer in the last; nil: done with
	n      int
}

// Len returns how many entries there are.
func (l *List[T]) Len() int { return l.n }

// Add adds an entry, and returns its number.
func (l *List[T]) Add(v T) int {
	if l.n%chunk == 0 {
		room := chunk
		if l.n == 0 {
			room = 0 // there may never be more than a few
		}
		l.chunks = append(l.chunks, make([]T, 0, room))
	}
	last := &l.chunks[len(l.chunks)-1]
	*last = append(*last, v)
	l.n++
	return l.n - 1
}

// At returns the entry of a number.
func (l *List[T]) At(i int) *T { return &l.chunks[i/chunk][i%chunk] }

// All yields the entries in order.
func (l *List[T]) All() iter.Seq[*T] {
	return func(yield func(*T) bool) {
		for i := range l.n {
			if !yield(l.At(i)) {
				return
			}
		}
	}
}

// Drain yields the entries in order, and gives up the memory of those that were.
func (l *List[T]) Drain() iter.Seq[*T] {
	return func(yield func(*T) bool) {
		for i := range l.n {
			if !yield(l.At(i)) {
				return
			}
			if i%chunk == chunk-1 {
				l.chunks[i/chunk] = nil
			}
		}
		*l = List[T]{}
	}
}
