package daemon

import (
	"log/slog"
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
	// killPatience is the same for kills that are under way: the records of a plan's
	// intents may each wait for a disk that hangs.
	killPatience = 60 * time.Second
)

// lockCure is what to do about a socket whose lock a program does not let go.
const lockCure = "look for a thread that is stopped in a page fault while it sends (state D, or a debugger's): it holds its socket's lock, and sock_diag waits for that in the kernel"

// waited is for how long it has been under way.
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

// sayStalled says what does not end, and returns when to see again.
func (d *watch) sayStalled(now sock.Instant) sock.Instant {
	scan, nextScan := d.scanStall.overdue(now, scanPatience)
	if scan {
		d.say(slog.LevelError, "scan does not end; new sockets are not found", waited(&d.scanStall, now), slog.String("cure", lockCure))
	}
	kills, nextKills := d.killStall.overdue(now, killPatience)
	if kills {
		d.say(slog.LevelError, "a kill does not end; no other is done", waited(&d.killStall, now), slog.String("cure", lockCure))
	}
	return min(nextScan, nextKills)
}

// scanned notes that the scan has ended.
func (d *watch) scanned(now sock.Instant) {
	if d.scanStall.said {
		d.say(slog.LevelWarn, "scan ended; new sockets are found again", waited(&d.scanStall, now))
	}
	d.scanStall = stall{}
}

// killing notes that kills are under way, one plan more.
func (d *watch) killing(now sock.Instant) {
	if d.plans++; d.plans == 1 {
		d.killStall = stall{since: now}
	}
}

// killed notes that the kills of a plan have ended. Those of the next begin.
func (d *watch) killed(now sock.Instant) {
	if d.killStall.said {
		d.say(slog.LevelWarn, "the kill ended; others are done again", waited(&d.killStall, now))
	}
	d.killStall = stall{}
	if d.plans--; d.plans > 0 {
		d.killStall.since = now
	}
}

func waited(s *stall, now sock.Instant) slog.Attr {
	return slog.Duration("waited", s.waited(now).Round(time.Millisecond))
}

// stalledSeconds is what is shown of something that takes long.
func stalledSeconds(d time.Duration) float64 {
	if d < time.Second {
		return 0
	}
	return d.Seconds()
}
