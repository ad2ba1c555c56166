// Package walk decides when to look in /proc for who holds which sockets: when to walk
// through the descriptors of all processes, and when to read only the new ones of those
// who held such sockets before. Others do that; the package is pure.
package walk

import (
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
)

const (
	// lead is how long before a socket falls due its holders are looked for: a walk
	// must not stand between due and done.
	lead = 5 * time.Second
	// patience is after how long a walk hangs, and how long a socket that is due waits
	// for one.
	patience = 30 * time.Second
	// slow is what a walk takes that comes too late for some: the new descriptors are
	// read beside it.
	slow = 50 * time.Millisecond
	// readPatience is how long a walk waits for the end of that.
	readPatience = time.Second
	// renewAfter is how old what is known of holders becomes before those that count by it
	// have it looked for again, at the earliest; and the walks that only they want are no
	// further apart than that.
	renewAfter = time.Minute
	// lateness is how late a socket may be decided on for which a walk came ahead.
	lateness = time.Second
	// believedFor is how many times as old it may become.
	believedFor = 10
	// share spaces the walks: they cost no more than a tenth of a core; a quarter
	// where a socket falls due before the next one would have ended; one in 5,000 where
	// they find again what is only shown.
	share       = 10
	urgentShare = 4
	shownShare  = 5000
)

// Want is a socket whose holders are wanted.
type Want struct {
	Cookie       uint64
	Netns, Inode uint32
	Alert        bool   // they are wanted for an alert
	Killed       string // or because the rule of that name had it killed
}

// Key returns the key of the socket.
func (w Want) Key() sock.Key { return sock.Key{Netns: w.Netns, Cookie: w.Cookie} }

// Schedule is what is wanted, and what is under way for it.
type Schedule struct {
	wants  []Want       // of the next walk
	urgent sock.Instant // when the first of them falls due
	asked  []Want       // in the walk under way

	counting bool          // a scan counts by holders, of which some are not known
	countGap time.Duration // between walks that nothing else wants

	walking, hurried bool // a walk is under way, and somebody waits for it
	hangs            bool
	began            sock.Instant  // the walk under way
	ended            sock.Instant  // the last walk
	hurriedEnded     sock.Instant  // and the last that somebody waited for
	walked, complete bool          // a walk has ended, which could read every process
	cost             time.Duration // of the last walk

	fresh    []Want       // of wants: those for which new descriptors were not read yet
	freshDue sock.Instant // when the first of them falls due
	tried    []Want       // in the reading under way
	reading  bool
	readAt   sock.Instant // the end of the last reading, or its start while it is under way
	readCost time.Duration
}

// New returns a Schedule of nothing. Until the first walk it takes every process for
// one that can be read.
func New() Schedule { return Schedule{urgent: sock.Never, freshDue: sock.Never, complete: true} }

// Examined says before the first walk whether one could read every process.
func (s *Schedule) Examined(complete bool) {
	if !s.walked { // a walk knows better
		s.complete = complete
	}
}

// Complete reports whether walks read every process of the host.
func (s *Schedule) Complete() bool { return s.complete }

// ReadingBegan returns when the reading of new descriptors began that is under way.
func (s *Schedule) ReadingBegan() sock.Instant { return s.readAt }

// Hangs reports whether the walk under way takes too long.
func (s *Schedule) Hangs() bool { return s.hangs }

// Began returns when the walk under way began, or else the last one; 0: there was none.
func (s *Schedule) Began() sock.Instant { return s.began }

// Took returns for how long the walk under way has been.
func (s *Schedule) Took(now sock.Instant) time.Duration { return now.Sub(s.began) }

// Lead is how long before a socket falls due its holders are to be wanted.
func (s *Schedule) Lead() time.Duration { return lead + 2*share*s.cost }

// Patience is how long a socket may have to wait for a walk.
func (s *Schedule) Patience() time.Duration { return patience + 2*share*s.cost }

// Want has the holders of a socket looked for, which falls due at that instant; sock.Never:
// nobody waits for them.
func (s *Schedule) Want(w Want, due sock.Instant) {
	s.wants = append(s.wants, w)
	if due != sock.Never {
		s.fresh, s.freshDue = append(s.fresh, w), min(s.freshDue, due)
		s.Hasten(due)
	}
}

// WantCounted says that scans count by holders which are not known, or that none does, and
// which share of a core the walks for that may take.
func (s *Schedule) WantCounted(counting bool, budget float64) {
	s.counting, s.countGap = counting, renewAfter
	if budget > 0 {
		s.countGap = min(time.Duration(float64(s.cost)/budget), renewAfter)
	}
}

// Renew returns how old what is known of holders is when it is to be looked for again;
// RenewShown returns the same of what nothing is decided by; Believed returns when it is not
// known any more.
func (s *Schedule) Renew() time.Duration { return max(renewAfter, share*s.cost) }
func (s *Schedule) RenewShown() time.Duration {
	return min(max(s.Renew(), shownShare*s.cost), s.Believed()-s.Renew())
}
func (s *Schedule) Believed() time.Duration { return believedFor * s.Renew() }

// Fresh returns how old what is known of holders may be when an act is decided that follows
// from it: the walk came ahead of what it was for, and perhaps a little late. Recent returns
// how old when it is done: its record takes time.
func (s *Schedule) Fresh() time.Duration  { return s.Lead() + lateness }
func (s *Schedule) Recent() time.Duration { return s.Lead() + lead }

// Hasten says that what is wanted falls due at that instant already.
func (s *Schedule) Hasten(due sock.Instant) { s.urgent = min(s.urgent, due) }

// nextWalk is when the next walk may begin.
func (s *Schedule) nextWalk() sock.Instant {
	next := s.ended.Add(share * s.cost)
	if s.counting {
		next = s.ended.Add(s.countGap)
		if len(s.wants) > 0 {
			next = min(next, s.ended.Add(share*s.cost))
		}
	}
	if s.urgent != sock.Never {
		next = s.hurriedEnded.Add(share * s.cost) // one that nobody waited for delays none
	}
	if s.urgent != sock.Never && s.complete {
		next = min(next, max(s.hurriedEnded.Add(urgentShare*s.cost), s.urgent.Add(-lead-2*s.cost)))
	}
	if s.reading { // it may make the walk needless
		next = max(next, s.readAt.Add(readPatience))
	}
	return next
}

// nextReading is when new descriptors are to be read: sock.Never where a walk is fast
// enough.
func (s *Schedule) nextReading() sock.Instant {
	if s.reading || len(s.fresh) == 0 || s.fast() {
		return sock.Never
	}
	return max(s.readAt.Add(urgentShare*s.readCost), s.freshDue.Add(-lead))
}

// fast reports whether walks are known to find everything in time.
func (s *Schedule) fast() bool { return s.walked && s.cost < slow }

// Wake returns when Begin has something to begin.
func (s *Schedule) Wake() sock.Instant {
	wake := s.nextReading()
	switch {
	case s.walking && !s.hangs:
		wake = min(wake, s.began.Add(patience))
	case !s.walking && (s.counting || len(s.wants) > 0):
		wake = min(wake, s.nextWalk())
	}
	return wake
}

// Begin returns the inodes whose holders are to be found now, by a walk and by
// reading new descriptors; nil: there is none. Each is under way until Walked, or Read, is
// called. A walk finds those that scans count by, too, which may be all that it is for.
func (s *Schedule) Begin(now sock.Instant) (walk, read []uint32) {
	if now >= s.nextReading() {
		s.tried, s.fresh, s.freshDue = s.fresh, nil, sock.Never
		s.reading, s.readAt = true, now
		read = inodes(s.tried)
	}
	s.hangs = s.walking && now >= s.began.Add(patience)
	if s.walking || !s.counting && len(s.wants) == 0 || now < s.nextWalk() {
		return nil, read
	}
	s.asked, s.wants, s.counting = s.wants, nil, false
	s.walking, s.began, s.hurried, s.urgent = true, now, s.urgent != sock.Never, sock.Never
	if s.fast() {
		s.fresh, s.freshDue = nil, sock.Never // it finds those, too
	}
	return inodes(s.asked), read
}

func inodes(of []Want) []uint32 {
	list := make([]uint32, len(of))
	for i, w := range of {
		list[i] = w.Inode
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// Walked says that the walk has ended, whether it could read every process, and what
// CPU time it took. It returns what it was for.
func (s *Schedule) Walked(complete bool, cost time.Duration, now sock.Instant) (asked []Want) {
	s.ended = now
	if s.hurried {
		s.hurriedEnded = now
	}
	s.walking, s.hangs, s.walked, s.complete, s.cost = false, false, true, complete, cost
	asked, s.asked = s.asked, nil
	return asked
}

// Read says that new descriptors were read, and what CPU time that took. It returns
// for what.
func (s *Schedule) Read(cost time.Duration, now sock.Instant) (tried []Want) {
	s.reading, s.readAt, s.readCost = false, now, cost
	tried, s.tried = s.tried, nil
	return tried
}

// Forget drops what is no longer wanted of the next walk.
func (s *Schedule) Forget(unwanted func(Want) bool) {
	s.wants = slices.DeleteFunc(s.wants, unwanted)
}
