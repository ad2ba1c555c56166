package daemon

import (
	"sync/atomic"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
)

// stall watches over something that may block for ever: a call into the kernel, or a
// write to a disk. One goroutine begins and ends it, any may ask.
type stall struct {
	since atomic.Int64 // the Instant at which it began; 0: nothing is under way
	timer *time.Timer
}

// begin notes that it is under way. If it takes longer than patience, late is called.
func (s *stall) begin(now sock.Instant, patience time.Duration, late func()) {
	s.since.Store(int64(now))
	s.timer = time.AfterFunc(patience, late)
}

// end notes that it has ended, and returns how long it took, and whether that was late.
func (s *stall) end(now sock.Instant) (took time.Duration, late bool) {
	took, late = s.waited(now), !s.timer.Stop()
	s.since.Store(0)
	return took, late
}

// waited returns for how long it has been under way.
func (s *stall) waited(now sock.Instant) time.Duration {
	if since := s.since.Load(); since != 0 {
		return now.Sub(sock.Instant(since))
	}
	return 0
}

const (
	// scanPatience is how long a scan may take before that is a problem.
	scanPatience = 10 * time.Second
	// actionPatience is the same for actions that are under way: the records of a
	// plan's intents may each wait for a disk that hangs.
	actionPatience = 60 * time.Second
)

// lockCure is what to do about a socket whose lock a program does not let go.
const lockCure = "look for a thread that is stopped in a page fault while it sends (state D, or a debugger's): it holds its socket's lock, and sock_diag waits for that in the kernel"

// stalledSeconds returns what is shown of something that takes long.
func stalledSeconds(d time.Duration) float64 {
	if d < time.Second {
		return 0
	}
	return d.Seconds()
}
