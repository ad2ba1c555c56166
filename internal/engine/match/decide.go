package match

import (
	"slices"

	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/engine/track"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Decision says whether an action of a rule is to be carried out on a socket.
type Decision uint8

const (
	NotDue  Decision = iota
	Blocked          // it is due, and the socket does not match for certain, or is in use
	Due              // the socket matches for certain, and is for certain not excluded
)

// Decide says whether an action of the rule is to be carried out on a socket whose
// group has fired since then. Where it is due, it says since when; where not, it
// says when to ask again, and Never where something must happen first. exact says
// that s answers a question about this socket alone.
func (r *Rule) Decide(a *rules.Action, t *track.Times, s subject.Subject, fired, now sock.Instant, exact bool) (Decision, sock.Instant) {
	return r.decide(a, t, s, heldByOnly, func() bool { return r.excludes(s) }, fired, now, exact)
}

// excludes reports whether the rule excludes the socket, or may.
func (r *Rule) excludes(s subject.Subject) bool { return Any(r.Exclude, s) != ssfilter.False }

// DecideBut is Decide where who holds the socket is not known well enough: what it would
// be if they were those that the rule means, and none that it excludes.
func (r *Rule) DecideBut(a *rules.Action, t *track.Times, s subject.Subject, fired, now sock.Instant, exact bool) (Decision, sock.Instant) {
	s.Holders = nil
	return r.decide(a, t, s, whoever, func() bool { return mayBeAny(r.Exclude, s) }, fired, now, exact)
}

func (r *Rule) decide(a *rules.Action, t *track.Times, s subject.Subject, held heldBy, excluded func() bool, fired, now sock.Instant, exact bool) (Decision, sock.Instant) {
	at, since, due, matched := sock.Never, sock.Never, false, false
	for i := range r.Match {
		m := &r.Match[i]
		holds := lasts(m, s, held)
		if holds == ssfilter.False {
			continue
		}
		met := DueAt(m, t)
		if met != sock.Never {
			met = max(met, fired)
		}
		switch {
		case met == sock.Never:
		case now >= met.Add(a.After):
			due = true
			// Something left to send is use, unless it is what the rule is about.
			inUse := a.Kind.Destructive && s.InUse() && m.StalledFor == 0
			if holds == ssfilter.True && AtPresent(m, s) == ssfilter.True && !inUse {
				matched, since = true, min(since, met.Add(a.After))
			}
		default:
			// What was seen in a long scan is known only roughly: an exact answer
			// at the early instant narrows it.
			next := max(EarlyDueAt(m, t), fired).Add(a.After)
			if exact && next <= now {
				next = met.Add(a.After)
			}
			at = min(at, next)
		}
	}
	switch {
	case matched && !excluded():
		return Due, since
	case due:
		return Blocked, at
	default:
		return NotDue, at
	}
}

// DecideShut decides on an action of the rule on a connection that another of its actions has
// shut down, which it is due on from then on: it has left the state that the rule is about, and
// all else that does not change with that must still hold.
func (r *Rule) DecideShut(s subject.Subject, due, now sock.Instant) (Decision, sock.Instant) {
	return r.decideShut(s, heldByOnly, func() bool { return r.excludes(s) }, due, now)
}

// DecideShutBut is DecideShut where who holds the socket is not known well enough, as
// DecideBut is.
func (r *Rule) DecideShutBut(s subject.Subject, due, now sock.Instant) (Decision, sock.Instant) {
	s.Holders = nil
	return r.decideShut(s, whoever, func() bool { return mayBeAny(r.Exclude, s) }, due, now)
}

func (r *Rule) decideShut(s subject.Subject, held heldBy, excluded func() bool, due, now sock.Instant) (Decision, sock.Instant) {
	means := func(m rules.Match) bool { return lastsInAnyState(&m, s, held) == ssfilter.True }
	switch {
	case now < due:
		return NotDue, due
	case slices.ContainsFunc(r.Match, means) && !excluded():
		return Due, due
	default:
		return Blocked, sock.Never
	}
}

// IsTimed reports whether a match has a time bound.
func IsTimed(m *rules.Match) bool {
	return max(m.InStateFor, m.IdleFor, m.StalledFor, m.SilentFor) > 0
}

// Lasts evaluates the part of a match that holds or not for as long as the socket stays
// in its state, or, where a program sets a mark or a device or passes its descriptor on,
// until it does: a later scan shows that, which Passive has not skipped. Of several
// processes that hold the socket, all must match.
func Lasts(m *rules.Match, s subject.Subject) ssfilter.Tri { return lasts(m, s, heldByOnly) }

// heldBy reports whether a socket is held by processes that a match means.
type heldBy func(m *rules.Match, by *subject.Holders) ssfilter.Tri

// lasts is Lasts, with what is asked of the processes that hold the socket.
func lasts(m *rules.Match, s subject.Subject, held heldBy) ssfilter.Tri {
	if !m.States.Has(s.State) {
		return ssfilter.False
	}
	return lastsInAnyState(m, s, held)
}

// lastsInAnyState is lasts, whatever the state.
func lastsInAnyState(m *rules.Match, s subject.Subject, held heldBy) ssfilter.Tri {
	holds := ssfilter.True
	if m.Where != nil {
		holds = m.Where.Eval(&s.Conn)
	}
	if len(m.Users) > 0 {
		holds = min(holds, ofUser(m.Users, s.Socket))
	}
	if len(m.Netns) > 0 {
		holds = min(holds, inNetns(m.Netns, s.Socket))
	}
	if len(m.Cgroups) > 0 {
		holds = min(holds, inCgroup(m.Cgroups, s.Cgroup))
	}
	if m.NamesHolders() {
		by := held(m, s.Holders)
		if m.IfKnown && by == ssfilter.Unknown {
			by = ssfilter.False
		}
		holds = min(holds, by)
	}
	return holds
}

// ofUser returns Unknown where the kernel reports uid 0 for want of a better: for a
// minisocket, and for a socket that no descriptor stands for.
func ofUser(users []uint32, s *sock.Socket) ssfilter.Tri {
	if s.Inode == 0 {
		return ssfilter.Unknown
	}
	for _, uid := range users {
		if uid == s.UID {
			return ssfilter.True
		}
	}
	return ssfilter.False
}

// AtPresent evaluates the part of a match that the program or its peer can change
// while the socket stays in its state.
func AtPresent(m *rules.Match, s subject.Subject) ssfilter.Tri {
	ok := m.Unread == nil || m.Unread.Holds(uint64(s.RQueue))
	ok = ok && (m.InBacklog == nil || *m.InBacklog == s.InBacklog())
	ok = ok && (m.IdleFor == 0 || !s.InUse()) && (m.StalledFor == 0 || s.InUse())
	if len(m.Verdicts) > 0 {
		among := false
		for _, v := range m.Verdicts {
			among = among || v == Verdict(s.Socket)
		}
		ok = ok && among
	}
	switch {
	case m.Keepalive == nil || !ok:
		return ssfilter.TriOf(ok)
	case s.KeptAlive:
		return ssfilter.TriOf(!*m.Keepalive)
	default:
		return keptAlive(s.Socket, *m.Keepalive)
	}
}

// WithoutKeepalives reports whether the keepalives of a socket are certainly off.
func WithoutKeepalives(s *sock.Socket) bool { return keptAlive(s, false) == ssfilter.True }

// keptAlive reports whether the keepalive timer of a socket is armed, as wanted. The kernel
// shows one timer, that of a retransmission or probe first (inet_sk_diag_fill). That of
// keepalives also ends an orphan in FIN_WAIT2.
func keptAlive(s *sock.Socket, wanted bool) ssfilter.Tri {
	switch {
	case s.Timer == sock.TimerOff, s.Minisocket(): // to which the kernel sends no probes
		return ssfilter.TriOf(!wanted)
	case s.Timer == sock.TimerKeepalive && !s.Orphan():
		return ssfilter.TriOf(wanted)
	default:
		return ssfilter.Unknown
	}
}

// Any reports whether any of those that exclude or protect holds. Of several processes
// that hold the socket, one that matches is enough.
func Any(matches []rules.Match, s subject.Subject) ssfilter.Tri {
	holds := ssfilter.False
	for i := range matches {
		holds = max(holds, min(lasts(&matches[i], s, heldByAny), AtPresent(&matches[i], s)))
	}
	return holds
}

// DueAt returns the instant at which the time bounds of a match are met: counted from
// the later of entry and progress, from when something was queued, and from when the peer
// was last heard. It is Never where they cannot be met before something is queued, or
// acknowledged: that will begin the count anew.
func DueAt(m *rules.Match, t *track.Times) sock.Instant {
	return dueAt(m, t.Base(), t.SilentBase(), t.Queued)
}

// EarlyDueAt is the best guess at that instant.
func EarlyDueAt(m *rules.Match, t *track.Times) sock.Instant {
	return dueAt(m, t.EarlyBase(), t.EarlySilentBase(), t.Queued)
}

func dueAt(m *rules.Match, base, silent, queued sock.Instant) sock.Instant {
	switch {
	case m.StalledFor > 0 && queued == sock.Never, m.IdleFor > 0 && queued != sock.Never:
		return sock.Never
	case m.SilentFor > 0 && m.StalledFor == 0 && m.IdleFor == 0:
		return silent.Add(max(m.InStateFor, m.SilentFor)) // what the peer acknowledges begins nothing anew
	case m.StalledFor > 0:
		return max(base.Add(m.InStateFor), max(base, queued).Add(m.StalledFor), silent.Add(m.SilentFor))
	default:
		return max(base.Add(max(m.InStateFor, m.IdleFor)), silent.Add(m.SilentFor))
	}
}

// Verdict says why a socket is in CLOSE_WAIT; it is empty in other states.
func Verdict(s *sock.Socket) rules.Verdict {
	switch {
	case s.State != ssfilter.CloseWait:
		return ""
	case s.InBacklog():
		return rules.InBacklog
	case s.InUse():
		return rules.StillSending
	case s.RQueue == 0:
		return rules.EOFReadNotClosed
	case s.RQueue == 1: // the FIN alone: tcp_diag_get_info() counts it as one byte
		return rules.EOFUnread
	default:
		return rules.UnreadData
	}
}
