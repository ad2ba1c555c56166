package node

import (
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
)

const (
	// discoverAtLeast and discoverAtMost are how far apart namespaces are looked for, and
	// discoverShare is the part of a processor that this may cost in between. The table
	// names a namespace as soon as a socket gets stuck there, so where it tells all that rules
	// ask for, they may be further apart.
	discoverAtLeast   = 2 * time.Second
	discoverAtMost    = 10 * time.Second
	discoverWithTable = 30 * time.Second
	discoverShare     = 1e-4
	// lossEvery is how often the table is asked whether it lost something. Every scan asks, too.
	lossEvery = 10 * time.Second
)

// spacing returns how long to wait after what took that much of a processor's time and may
// take a share of it.
func spacing(cost time.Duration, share float64) time.Duration {
	return time.Duration(float64(cost) / share)
}

// maintain looks after the namespaces and the table. What may wait in the kernel for the
// lock of a socket is done by others.
func (s *Source) maintain() {
	runtime.LockOSThread() // the cost is counted by thread, which ends with the goroutine
	if p := s.follower.programs; p != nil {
		s.tellVerdict(p.WhyNoFlag())
		s.tellVerdict(p.WhyNoOwners())
	}
	now := s.config.Now()
	discover := now
	s.checks.began = now
	for {
		now = s.config.Now()
		if s.config.All && (now >= discover || s.unknown.look()) {
			began := sock.ThreadTime()
			s.discoverAndSay()
			discover = now.Add(min(max(discoverAtLeast, spacing(sock.ThreadTime()-began, discoverShare)), s.discoverAtMost()))
		}
		s.tend(now)
		s.checkAfter(now)
		timer := time.NewTimer(s.pause(discover))
		select {
		case <-s.done:
			timer.Stop()
			return
		case <-s.wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// pause returns how long there is nothing to do.
func (s *Source) pause(discover sock.Instant) time.Duration {
	pause := time.Hour
	switch {
	case s.follower.covered.Load() != 0:
		pause = lossEvery
	case s.follower.programs != nil && s.follower.cgroup != "" && s.follower.wanted.Load() != 0:
		pause = retryAfter
	}
	if s.config.All {
		pause = min(pause, discover.Sub(s.config.Now()))
	}
	return pause
}

// discoverAtMost returns how far apart namespaces are looked for at most.
func (s *Source) discoverAtMost() time.Duration {
	f := &s.follower
	if f.beyond.Load() || f.covered.Load() == 0 || f.full.Load() {
		return discoverAtMost
	}
	return discoverWithTable
}

// leftOutCure is what to do about network namespaces that are not watched. Root's own doctor
// would miss what a unit forbids.
const leftOutCure = "for the systemd service the drop-in namespaces.conf, for a container what docs/quickstart.md#all-network-namespaces-of-a-machine gives it; sockdog doctor as the service, or in the container, says what is missing"

// discoverAndSay says when it begins to fail or to leave some out, and when it ends to.
func (s *Source) discoverAndSay() {
	err := s.discover()
	switch failed := err != nil; {
	case failed && !s.blind:
		s.say(slog.LevelError, "network namespaces cannot be found; new ones are not watched", slog.String("error", err.Error()))
	case !failed && s.blind:
		s.say(slog.LevelInfo, "network namespaces are found again")
	}
	s.blind = err != nil
	lacking := s.leftOut != nil && !s.few
	switch {
	case lacking && !s.lacking:
		s.say(slog.LevelWarn, "not all network namespaces are watched", slog.String("reason", s.leftOut.Error()), slog.String("cure", leftOutCure))
	case !lacking && s.lacking:
		s.say(slog.LevelInfo, "all network namespaces are watched again")
	}
	s.lacking = lacking
}

// unknown are network namespaces, by their cookies, that the table names and that are not
// watched: they are new, or no process is in them.
type unknown struct {
	sync.Mutex
	cookies map[uint64]bool // false: nobody has looked for it since
}

func newUnknown() unknown { return unknown{cookies: make(map[uint64]bool)} }

// note notes which those are now, and reports whether one is among them for which nobody has
// looked yet.
func (u *unknown) note(cookies []uint64) (fresh bool) {
	u.Lock()
	defer u.Unlock()
	was := u.cookies
	u.cookies = make(map[uint64]bool, len(cookies))
	for _, c := range cookies {
		u.cookies[c] = was[c]
		fresh = fresh || !was[c]
	}
	return fresh
}

// look reports whether there is one for which nobody has looked yet. Its caller looks for all.
func (u *unknown) look() (fresh bool) {
	u.Lock()
	defer u.Unlock()
	for c, looked := range u.cookies {
		fresh = fresh || !looked
		u.cookies[c] = true
	}
	return fresh
}
