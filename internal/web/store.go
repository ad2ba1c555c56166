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

// make asks the loop for a value, and returns what is closed when it is there.
func (d *demand) make() <-chan struct{} {
	if d.shown == nil {
		d.shown = make(chan struct{})
	}
	select {
	case d.asked <- struct{}{}:
	default: // another reader has asked
	}
	return d.shown
}

// fulfil lets the readers go on that wait.
func (d *demand) fulfil() {
	if d.shown != nil {
		close(d.shown)
		d.shown = nil
	}
}

// await waits for a value, and reports whether it came in time.
func await(shown <-chan struct{}) bool {
	wait := time.NewTimer(waitFor)
	defer wait.Stop()
	select {
	case <-shown:
		return true
	case <-wait.C:
		return false
	}
}

// Store holds the last status of the daemon. The loop makes a new one seldom by
// itself, and at once when a reader asks: watching costs next to nothing while nobody
// reads.
type Store struct {
	last atomic.Pointer[status.Status]

	mu     sync.Mutex
	demand demand
	hangs  bool // a reader has waited in vain for the next status
}

// NewStore makes an empty one.
func NewStore() *Store { return &Store{demand: newDemand()} }

// Show stores a status, which must not change after. It does not wait.
func (s *Store) Show(next *status.Status) {
	s.last.Store(next)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hangs = false
	s.demand.fulfil()
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
	if s.hangs {
		s.mu.Unlock()
		return last
	}
	shown := s.demand.make()
	s.mu.Unlock()
	if !await(shown) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.hangs = s.demand.shown == shown
	}
	return s.last.Load()
}
