package daemon

import (
	"math"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
)

// stall watches over what a worker does in the kernel, which may take for ever.
type stall struct {
	since sock.Instant // 0: nothing is under way
	said  bool         // that it does not end
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

// waited returns for how long it has been under way.
func (s *stall) waited(now sock.Instant) time.Duration {
	if s.since == 0 {
		return 0
	}
	return now.Sub(s.since)
}

// overdue reports once that it has taken too long, and returns when to see again.
func (s *stall) overdue(now sock.Instant, patience time.Duration) (is bool, next sock.Instant) {
	switch {
	case s.since == 0 || s.said:
		return false, math.MaxInt64
	case s.waited(now) < patience:
		return false, s.since.Add(patience)
	default:
		s.said = true
		return true, math.MaxInt64
	}
}

// stalledSeconds returns what is shown of something that takes long.
func stalledSeconds(d time.Duration) float64 {
	if d < time.Second {
		return 0
	}
	return d.Seconds()
}
