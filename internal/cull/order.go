// Package cull destroys the sockets that a person has selected: it finds them,
// spares those that nobody may touch, asks for each again just before, destroys
// it, and sees to it that it is gone. Rules have nothing to do with it, and
// neither has time: what has to wait for its instant is the engine's.
package cull

import (
	"fmt"
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/engine/track"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Order is which sockets are to be destroyed, and which of them are spared.
type Order struct {
	Query        sock.Query
	OlderThan    time.Duration // in their state for that long at least; 0: not asked
	Idle         time.Duration // without progress for that long, and nothing queued; 0: not asked
	InUse        bool          // those in use too
	DryRun       bool          // say what would become of each, and touch none
	Protect      []rules.Match
	Capabilities match.Capabilities
	Memories     map[sock.Key]*sock.Memory // what a watchdog knows beside the kernel
	Precision    time.Duration
	Self         int // our own process

	now      func() sock.Instant // Find's
	scanCost time.Duration       // of Find's
}

// LeftAlone is the result for a socket that was meant and is not touched.
const LeftAlone engine.Result = "left-alone"

// Target is a socket that an order means, and what becomes of it.
type Target struct {
	Socket sock.Socket
	Age    track.Age
	Held   *subject.Holders // nil: nobody has looked
	Result engine.Result    // empty: it is to be destroyed
	Reason string

	got sock.Instant
}

// Holders are the processes that hold the target, as far as anybody has looked.
func (t *Target) Holders() []sock.Holder {
	if t.Held == nil {
		return nil
	}
	return t.Held.Processes
}

// conclude says what became of the target.
func (t *Target) conclude(r engine.Result, reason string) { t.Result, t.Reason = r, reason }

// Passed is how many sockets an order passes over for its bounds on their age.
type Passed struct {
	Young    int // for certain
	Unjudged int // what is known of their age is a bound that tells neither
}

// Find scans for the sockets that the order means.
func (o *Order) Find(k Kernel, now func() sock.Instant) (targets []*Target, passed Passed, err error) {
	o.now = now
	sent := now()
	var room []Target // no slice of them all: they would be copied as it grows
	err = k.Scan(o.Query, func(s *sock.Socket, got sock.Instant) {
		age := track.AgeOf(s, o.Memories[s.ID.Key()], sent, got, o.Precision)
		switch o.oldEnough(s, age) {
		case ssfilter.True:
		case ssfilter.Unknown:
			passed.Unjudged++
			return
		default:
			passed.Young++
			return
		}
		if len(room) == cap(room) {
			room = make([]Target, 0, batch)
		}
		room = append(room, Target{Socket: *s, Age: age, got: got})
		targets = append(targets, &room[len(room)-1])
	})
	if err != nil {
		return nil, Passed{}, err
	}
	o.scanCost = now().Sub(sent)
	targets = once(targets)
	for _, t := range targets {
		o.judge(t)
	}
	return targets, passed, nil
}

// oldEnough says whether a socket meets the bounds on its age. What is never touched
// does not, where nobody can know.
func (o *Order) oldEnough(s *sock.Socket, age track.Age) ssfilter.Tri {
	enough := min(track.ForAtLeast(s, age, o.OlderThan), track.IdleForAtLeast(s, age, o.Idle))
	if enough == ssfilter.Unknown && match.Guard(s, o.Protect, o.Capabilities, nil, o.Self) != "" {
		return ssfilter.False
	}
	return enough
}

// once drops what is there a second time: a walk of the hash table can come upon
// a socket twice.
func once(targets []*Target) []*Target {
	seen := make(map[uint64]struct{}, len(targets))
	return slices.DeleteFunc(targets, func(t *Target) bool {
		n := len(seen)
		seen[t.Socket.ID.Cookie] = struct{}{}
		return len(seen) == n
	})
}

// Doomed are the targets that are to be destroyed.
func Doomed(targets []*Target) []*Target {
	doomed := make([]*Target, 0, len(targets))
	for _, t := range targets {
		if t.Result == "" {
			doomed = append(doomed, t)
		}
	}
	return doomed
}

// Inodes are what to find the holders of.
func Inodes(doomed []*Target) map[uint32]struct{} {
	inodes := make(map[uint32]struct{}, len(doomed))
	for _, t := range doomed {
		if inode := t.Socket.Inode; inode != 0 {
			inodes[inode] = struct{}{}
		}
	}
	return inodes
}

// Resolve takes in who holds the targets, which may spare some.
func (o *Order) Resolve(doomed []*Target, owned engine.HoldersFound) {
	for _, t := range doomed {
		t.Held = owned.Of(t.Socket.Inode)
		o.judge(t)
	}
}

// judge spares a target that must not be touched, or gives up one that cannot be
// destroyed here.
func (o *Order) judge(t *Target) {
	why := o.Capabilities.Cannot(rules.Kill, &t.Socket)
	switch spared := o.spare(&t.Socket, t); {
	case spared != "":
		t.conclude(LeftAlone, spared)
	case why != "" && !o.DryRun:
		t.conclude(engine.Failed, why)
	}
}

// spare says why the target, as it now is, is not to be touched, or "".
func (o *Order) spare(s *sock.Socket, t *Target) string {
	why := match.Guard(s, o.Protect, o.Capabilities, t.Held, o.Self)
	switch {
	case why != "":
		return why
	case o.means(s) == ssfilter.Unknown:
		return "whether the filter means it cannot be known"
	case o.InUse:
		return ""
	case s.InUse():
		return "in use: something is left to send"
	case o.Idle == 0 && s.Live():
		return fmt.Sprintf("may be in use: %s is a live state", s.State)
	case stillSending(s):
		return "in use: it sent data within the last second"
	case t.Age.Idle < o.OlderThan:
		return fmt.Sprintf("in use: it made progress within %v", o.OlderThan)
	default:
		return ""
	}
}

// means reports whether the filter holds for a socket, as far as its answer tells:
// the kernel knows no cgroup of a time-wait socket, and takes "not" of what it does
// not know for true.
func (o *Order) means(s *sock.Socket) ssfilter.Tri {
	if o.Query.Where == nil {
		return ssfilter.True
	}
	return o.Query.Where.Eval(&s.Conn)
}

// stillSending reports whether a socket in CLOSE_WAIT has just sent data, after
// the last that it received: its peer may have closed its own half alone (RFC 9293,
// 3.6), and between two segments nothing need be queued. Where the last data went
// out before the last came in, that was before the peer's FIN.
func stillSending(s *sock.Socket) bool {
	const all = sock.HasBytesAcked | sock.HasLastDataSent | sock.HasLastDataRecv
	return s.State == ssfilter.CloseWait && s.Info.Has&all == all &&
		s.Info.BytesAcked > 1 && // a SYN counts as one; before any data the times count from the connect
		s.Info.LastDataSent < time.Second && s.Info.LastDataSent <= s.Info.LastDataRecv
}

// recheck concludes on a target that is not any more what was selected.
func (o *Order) recheck(t *Target, a *sock.Answer) {
	same, progress := track.SameConnection(&t.Socket, t.got, a, o.Precision)
	a.Socket.Autobound = t.Socket.Autobound // a scan alone tells, and it lasts as long as the connection
	switch {
	case a.Err != nil:
		t.conclude(engine.Failed, "asking for it again failed: "+a.Err.Error())
	case a.Gone:
		t.conclude(engine.Gone, "it ended by itself")
	case o.meansToo(t, a):
		t.conclude(LeftAlone, fmt.Sprintf("in %s by now, which is selected too", a.Socket.State))
	case a.Socket.State != t.Socket.State:
		t.conclude(engine.Changed, fmt.Sprintf("in %s by now", a.Socket.State))
	case !same:
		t.conclude(engine.Changed, "another connection by now")
	case o.means(&a.Socket) == ssfilter.False:
		t.conclude(engine.Changed, "the filter does not mean it any more")
	case progress && !o.InUse:
		t.conclude(LeftAlone, "in use: it made progress meanwhile")
	default:
		if why := o.spare(&a.Socket, t); why != "" {
			t.conclude(LeftAlone, why)
		}
	}
}

// meansToo reports whether the order means the target although it has changed its
// state: it is not what was shown, and yet some of what was selected is left. What
// its program has closed meanwhile ends by itself.
func (o *Order) meansToo(t *Target, a *sock.Answer) bool {
	s := &a.Socket
	return s.State != t.Socket.State && s.Inode != 0 && o.Query.States.Has(s.State) &&
		o.OlderThan == 0 && o.Idle == 0 && o.means(s) != ssfilter.False
}
