package daemon

import (
	"sync"
	"time"
)

// queue gathers a batch while a goroutine of its own works on the one before, which
// may block for as long as it likes. mu guards what else its owner keeps, too.
type queue[B any] struct {
	mu      sync.Mutex
	next    B
	some    bool // there is work in next
	closed  bool
	arrived *sync.Cond
	done    chan struct{} // closed once the goroutine has ended
}

func (q *queue[B]) start(work func(batch B)) {
	q.arrived, q.done = sync.NewCond(&q.mu), make(chan struct{})
	go func() {
		defer close(q.done)
		for {
			batch, ok := q.take()
			if !ok {
				return
			}
			work(batch)
		}
	}()
}

// put adds to the next batch, which is worked on soon. It does not wait for that.
func (q *queue[B]) put(add func(next *B)) {
	q.mu.Lock()
	defer q.mu.Unlock()
	add(&q.next)
	q.some = true
	q.arrived.Signal()
}

// take waits for a batch; ok is false once there will be none.
func (q *queue[B]) take() (batch B, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.some && !q.closed {
		q.arrived.Wait()
	}
	var empty B
	batch, ok = q.next, q.some
	q.next, q.some = empty, false
	return batch, ok
}

// close has the goroutine end once no work is left, and reports whether it has
// within that time.
func (q *queue[B]) close(within time.Duration) bool {
	q.mu.Lock()
	q.closed = true
	q.arrived.Signal()
	q.mu.Unlock()
	select {
	case <-q.done:
		return true
	case <-time.After(within):
		return false
	}
}
