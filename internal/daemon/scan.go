package daemon

import (
	"log/slog"
	"math"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
)

// scan is the reading of the socket table that is under way.
type scan struct {
	sent sock.Instant // 0: none is
	said bool         // that it does not end
}

// scanPatience is how long a scan may take before that is a problem.
const scanPatience = 10 * time.Second

// lockCure is what to do about a socket whose lock a program does not let go.
const lockCure = "look for a thread that is stopped in a page fault while it sends (state D, or a debugger's): it holds its socket's lock, and sock_diag waits for that in the kernel"

// stalled is for how long the scan has been under way.
func (s *scan) stalled(now sock.Instant) time.Duration {
	if s.sent == 0 {
		return 0
	}
	return now.Sub(s.sent)
}

// sayStalled says once that a scan does not end, and returns when to see again.
func (d *watch) sayStalled(now sock.Instant) sock.Instant {
	switch stalled := d.scan.stalled(now); {
	case d.scan.sent == 0 || d.scan.said:
		return math.MaxInt64
	case stalled < scanPatience:
		return d.scan.sent.Add(scanPatience)
	default:
		d.scan.said = true
		d.say(slog.LevelError, "scan does not end; new sockets are not found", slog.Duration("waited", stalled.Round(time.Millisecond)), slog.String("cure", lockCure))
		return math.MaxInt64
	}
}

// scanned notes that the scan has ended.
func (d *watch) scanned(now sock.Instant) {
	if d.scan.said {
		d.say(slog.LevelWarn, "scan ended; new sockets are found again", slog.Duration("waited", d.scan.stalled(now).Round(time.Millisecond)))
	}
	d.scan = scan{}
}

// stalledSeconds is what is shown of something that takes long.
func stalledSeconds(d time.Duration) float64 {
	if d < time.Second {
		return 0
	}
	return d.Seconds()
}
