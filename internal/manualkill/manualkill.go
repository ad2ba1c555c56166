// Package manualkill destroys the sockets that a person has selected: it spares those that
// nobody may touch, rechecks each just before, confirms that it is gone, and tells.
package manualkill

import (
	"fmt"
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/action"
	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/engine/track"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Request is which sockets are to be destroyed, and which of them are spared.
type Request struct {
	Query        sock.Query
	OlderThan    time.Duration // in their state for that long at least; 0: not asked
	Idle         time.Duration // without progress for that long, and nothing queued; 0: not asked
	InUse        bool          // those in use too
	DryRun       bool          // say what would become of each, and touch none
	Owners       Owners        // whose sockets; nil: anybody's
	Via          rules.Via     // by which way; empty: any
	Protect      []rules.Match
	Capabilities match.Capabilities
	Memories     map[sock.Key]*sock.Memory // what a watchdog knows beside the kernel
	Precision    time.Duration
	Self         int // our own process
	// Descriptors opens what duplicates descriptors, for one thread; nil: nobody kills through
	// who holds a socket.
	Descriptors func() action.Descriptors

	now func() sock.Instant // Find's
}

// Owners say whether a socket of these holders is of somebody who is meant.
type Owners interface {
	Mean(s *sock.Socket, by *subject.Holders) ssfilter.Tri
}

// LeftAlone is the result for a socket that was meant and is not touched.
const LeftAlone engine.Result = "left-alone"

// Target is a socket that a request means, and what becomes of it.
type Target struct {
	Socket sock.Socket
	Age    track.Age
	Held   *subject.Holders // nil: not looked up
	Via    rules.Via        // by which way it was, or would be, destroyed; empty: by none
	Result engine.Result    // empty: it is to be destroyed
	Reason string

	got sock.Instant
}

// Holders returns the processes that hold the target, as far as they were looked up.
func (t *Target) Holders() []sock.Holder {
	if t.Held == nil {
		return nil
	}
	return t.Held.Processes
}

func (t *Target) conclude(r engine.Result, reason string) { t.Result, t.Reason = r, reason }

// Passed is how many sockets a request passes over for its bounds on their age.
type Passed struct {
	Young    int // for certain
	Unjudged int // what is known of their age is a bound that tells neither
}

// Find scans for the sockets that the request means.
func (r *Request) Find(k Kernel, now func() sock.Instant) (targets []*Target, passed Passed, err error) {
	r.now = now
	sent := now()
	seen := make(map[uint64]bool) // by cookie: a walk of the hash table can come upon a socket twice
	err = k.Scan(r.Query, func(s *sock.Socket, got sock.Instant) {
		if r.ofOthers(s) {
			return
		}
		age := track.AgeOf(s, r.Memories[s.ID.Key()], sent, got, r.Precision)
		switch enough := r.oldEnough(s, age); {
		case enough == ssfilter.Unknown:
			passed.Unjudged++
		case enough == ssfilter.False:
			passed.Young++
		case !seen[s.ID.Cookie]:
			seen[s.ID.Cookie] = true
			t := &Target{Socket: *s, Age: age, got: got}
			r.judge(t, match.WithoutHolders(r.Protect)) // who holds it is looked for next
			targets = append(targets, t)
		}
	})
	if err != nil {
		return nil, Passed{}, err
	}
	multipath, err := r.findMPTCP(k)
	if err != nil {
		return nil, Passed{}, err
	}
	return append(targets, multipath...), passed, nil
}

// findMPTCP scans for connections of Multipath TCP. Whoever means them must learn that they stay,
// whatever their age, which nobody knows. Of listeners the subflows tell.
func (r *Request) findMPTCP(k Kernel) (targets []*Target, err error) {
	q := r.Query
	q.States &^= ssfilter.Of(ssfilter.Listening)
	_, err = k.ScanMPTCP(q, func(s *sock.Socket, got sock.Instant) {
		if r.ofOthers(s) {
			return
		}
		t := &Target{Socket: *s, got: got}
		t.conclude(LeftAlone, "a connection of Multipath TCP, of which nothing is killed: end it in its program")
		targets = append(targets, t)
	})
	return targets, err
}

// ofOthers reports whether a socket is certainly of none who is meant, whoever holds it.
func (r *Request) ofOthers(s *sock.Socket) bool {
	return r.Owners != nil && r.Owners.Mean(s, nil) == ssfilter.False
}

// oldEnough says whether a socket meets the bounds on its age. What is never touched
// does not, where nobody can know.
func (r *Request) oldEnough(s *sock.Socket, age track.Age) ssfilter.Tri {
	enough := min(track.ForAtLeast(s, age, r.OlderThan), track.IdleForAtLeast(s, age, r.Idle))
	if enough == ssfilter.Unknown && match.Guard(subject.Of(s), match.WithoutHolders(r.Protect), r.Capabilities, r.Self) != "" {
		return ssfilter.False
	}
	return enough
}

// Own returns those of the targets that may be of who is meant, by who holds them. It leaves
// those alone of which that cannot be told.
func (r *Request) Own(targets []*Target, owned engine.HoldersFound) []*Target {
	return slices.DeleteFunc(targets, func(t *Target) bool {
		t.Held = owned.Of(t.Socket.Inode)
		means := r.Owners.Mean(&t.Socket, t.Held)
		if means == ssfilter.Unknown && t.Result == "" {
			t.conclude(LeftAlone, "whose it is cannot be told for certain")
		}
		return means == ssfilter.False
	})
}

// Pending returns the targets that are to be destroyed.
func Pending(targets []*Target) []*Target {
	return slices.DeleteFunc(slices.Clone(targets), func(t *Target) bool { return t.Result != "" })
}

// Inodes returns those of the targets, whose holders are to be found.
func Inodes(targets []*Target) map[uint32]struct{} {
	inodes := make(map[uint32]struct{}, len(targets))
	for _, t := range targets {
		if t.Socket.Inode != 0 {
			inodes[t.Socket.Inode] = struct{}{}
		}
	}
	return inodes
}

// NeedsHolders reports whether who holds a socket decides whether it is protected, or is the
// way to it.
func (r *Request) NeedsHolders() bool {
	return match.NeedHolders(r.Protect) || r.Way() == rules.ViaHolder
}

// Cmdlines returns the patterns that the command lines of holders are to be compared with.
func (r *Request) Cmdlines() []string { return match.Cmdlines(r.Protect) }

// Resolve takes in who holds the targets, which may spare some.
func (r *Request) Resolve(targets []*Target, owned engine.HoldersFound) {
	for _, t := range targets {
		t.Held = owned.Of(t.Socket.Inode)
		r.judge(t, r.Protect)
	}
}

// judge spares a target that must not be touched, or gives up one that cannot be
// destroyed here.
func (r *Request) judge(t *Target, protect []rules.Match) {
	why := r.missing(t)
	switch spared := r.spare(&t.Socket, t, protect); {
	case spared != "":
		t.conclude(LeftAlone, spared)
	case why != "" && !r.DryRun:
		t.conclude(engine.Failed, why)
	case r.Way() == rules.ViaHolder:
		if why := unreachable(t); why != "" {
			t.conclude(LeftAlone, action.Words(why))
		}
	}
}

// missing says why the target cannot be destroyed here, or "".
func (r *Request) missing(t *Target) string {
	if why := r.Capabilities.Cannot(r.kill(), &t.Socket); why != nil {
		return action.Missing(rules.Kill, why)
	}
	return ""
}

// liveReason is how the reason begins to spare what may be in use by its state.
const liveReason = "may be in use: "

// spare says why the target, as it now is, is not to be touched, or "".
func (r *Request) spare(s *sock.Socket, t *Target, protect []rules.Match) string {
	why := match.Guard(subject.Subject{Socket: s, Holders: t.Held}, protect, r.Capabilities, r.Self)
	switch {
	case why != "":
		return action.Words(why)
	case r.means(s) == ssfilter.Unknown:
		return "whether the filter means it cannot be known"
	case r.InUse:
		return ""
	case s.InUse():
		return "in use: something is left to send"
	case r.Idle == 0 && s.Live():
		return fmt.Sprintf(liveReason+"%s is a live state", s.State)
	case stillSending(s):
		return "in use: it sent data within the last second"
	case t.Age.Idle < r.OlderThan:
		return fmt.Sprintf("in use: it made progress within %v", r.OlderThan)
	default:
		return ""
	}
}

// means reports whether the filter holds for a socket, as far as its answer tells:
// the kernel knows no cgroup of a time-wait socket, and takes "not" of what it does
// not know for true.
func (r *Request) means(s *sock.Socket) ssfilter.Tri {
	if r.Query.Where == nil {
		return ssfilter.True
	}
	return r.Query.Where.Eval(&s.Conn)
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
func (r *Request) recheck(t *Target, a *sock.Answer) {
	same, progress := track.SameConnection(&t.Socket, t.got, a, r.Precision)
	a.Socket.Autobound = t.Socket.Autobound // a scan alone tells, and it lasts as long as the connection
	switch {
	case a.Err != nil:
		t.conclude(engine.Failed, "asking for it again failed: "+a.Err.Error())
	case a.Gone:
		t.conclude(engine.Gone, "it ended by itself")
	case r.meansToo(t, a):
		t.conclude(LeftAlone, fmt.Sprintf("in %s by now, which is selected too", a.Socket.State))
	case a.Socket.State != t.Socket.State:
		t.conclude(engine.Changed, fmt.Sprintf("in %s by now", a.Socket.State))
	case !same:
		t.conclude(engine.Changed, "another connection by now")
	case r.Owners != nil && a.Socket.Inode != t.Socket.Inode:
		t.conclude(engine.Changed, "its program has closed it by now")
	case r.Owners != nil && r.Owners.Mean(&a.Socket, t.Held) != ssfilter.True:
		t.conclude(engine.Changed, "by now it cannot be told that it is of who is meant")
	case r.means(&a.Socket) == ssfilter.False:
		t.conclude(engine.Changed, "the filter does not mean it any more")
	case progress && !r.InUse:
		t.conclude(LeftAlone, "in use: it made progress meanwhile")
	default:
		if why := r.spare(&a.Socket, t, r.Protect); why != "" {
			t.conclude(LeftAlone, why)
		}
	}
}

// meansToo reports whether the request selects the target in its new state, too: it is not
// what was shown, and yet something selected is left. What its program has closed
// meanwhile ends by itself.
func (r *Request) meansToo(t *Target, a *sock.Answer) bool {
	s := &a.Socket
	return s.State != t.Socket.State && s.Inode != 0 && r.Query.States.Has(s.State) &&
		r.OlderThan == 0 && r.Idle == 0 && r.means(s) != ssfilter.False
}
