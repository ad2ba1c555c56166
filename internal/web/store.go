package web

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/sockdog/sockdog/internal/status"
)

const (
	// freshFor is how old a status may be that is shown to somebody.
	freshFor = time.Second
	// waitFor bounds how long a reader waits for one: a loop that hangs makes none.
	waitFor = 250 * time.Millisecond
)

// demand is how readers ask the daemon's loop for a value, and wait for it.
type demand struct {
	asked chan struct{} // ready when a reader asks
	shown chan struct{} // closed with the next value; nil: no reader waits
}

func newDemand() demand { return demand{asked: make(chan struct{}, 1)} }

// wait asks the loop for a value, waits for it without the lock, and reports whether it
// came in time.
func (d *demand) wait(lock sync.Locker) bool {
	if d.shown == nil {
		d.shown = make(chan struct{})
	}
	shown := d.shown
	select {
	case d.asked <- struct{}{}:
	default: // another reader has asked
	}
	lock.Unlock()
	select {
	case <-shown:
	case <-time.After(waitFor):
	}
	lock.Lock()
	return d.shown != shown
}

// fulfil lets the readers go on that wait.
func (d *demand) fulfil() {
	if d.shown != nil {
		close(d.shown)
		d.shown = nil
	}
}

// Store holds the last status of the daemon. The loop makes a new one seldom by
// itself, and at once when a reader asks: watching costs next to nothing while nobody
// reads.
type Store struct {
	last   atomic.Pointer[status.Status]
	turned atomic.Pointer[time.Time] // when the loop last gave a sign of life

	mu     sync.Mutex
	demand demand
	hangs  bool // a reader has waited in vain for the next status
}

// NewStore makes an empty one.
func NewStore() *Store { return &Store{demand: newDemand()} }

// Show stores a status, which must not change after. It does not wait.
func (s *Store) Show(next *status.Status) {
	s.last.Store(next)
	s.turned.Store(&next.Time)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hangs = false
	s.demand.fulfil()
}

// Turned stores that the loop turns, which costs less than a status.
func (s *Store) Turned() {
	now := time.Now()
	s.turned.Store(&now)
}

// Asked is ready when a reader asks and the status is no longer fresh.
func (s *Store) Asked() <-chan struct{} { return s.demand.asked }

// Current is the last status: of a second ago at most while the daemon's loop turns;
// nil if there was none yet. Once a reader has waited in vain, no other waits.
func (s *Store) Current() *status.Status {
	last := s.last.Load()
	if last != nil && time.Since(last.Time) < freshFor {
		return last
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.hangs {
		s.hangs = !s.demand.wait(&s.mu)
	}
	return s.last.Load()
}
