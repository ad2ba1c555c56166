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
	// waitFor bounds how long somebody waits for one: a loop that hangs makes none.
	waitFor = 250 * time.Millisecond
)

// Board is where the daemon hangs out how things stand. It makes a new status
// seldom by itself, and at once for somebody who looks: to watch must cost next to
// nothing while nobody does.
type Board struct {
	last  atomic.Pointer[status.Status]
	asked chan struct{}

	mu    sync.Mutex
	shown chan struct{} // closed with the next status; nil: nobody waits for it
	vain  bool          // somebody has waited for that in vain
}

// NewBoard makes a board with nothing on it.
func NewBoard() *Board { return &Board{asked: make(chan struct{}, 1)} }

// Show puts a status on the board, which is not changed after. It does not wait.
func (b *Board) Show(s *status.Status) {
	b.last.Store(s)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.vain = false
	if b.shown != nil {
		close(b.shown)
		b.shown = nil
	}
}

// Asked is ready when somebody looks, and what there is has grown old.
func (b *Board) Asked() <-chan struct{} { return b.asked }

// Current is how things stand, as of a second ago at the most while the daemon's
// loop turns; nil: it has just begun. Where one has waited in vain, no other does.
func (b *Board) Current() *status.Status {
	if s := b.fresh(); s != nil {
		return s
	}
	b.mu.Lock()
	if b.shown == nil { // nobody else has asked: the loop is told once, however many do
		b.shown = make(chan struct{})
		select {
		case b.asked <- struct{}{}:
		default:
		}
	}
	shown, vain := b.shown, b.vain
	b.mu.Unlock()
	if vain {
		return b.last.Load()
	}
	wait := time.NewTimer(waitFor)
	defer wait.Stop()
	select {
	case <-shown:
	case <-wait.C:
		b.mu.Lock()
		defer b.mu.Unlock()
		b.vain = b.shown == shown
	}
	return b.last.Load()
}

func (b *Board) fresh() *status.Status {
	if s := b.last.Load(); s != nil && time.Since(s.Time) < freshFor {
		return s
	}
	return nil
}
