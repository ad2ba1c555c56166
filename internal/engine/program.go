package engine

import (
	"time"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Program is a rules.Set made ready for matching. It is immutable: the thread
// that looks and the goroutine that decides share it.
type Program struct {
	settings rules.Settings
	protect  []rules.Match
	rules    []rule
	gaps     [classes]time.Duration // wanted between two looks; 0: no rule in the class
}

type rule struct {
	rules.Rule
	class class
	id    uint64 // sock.RuleSum of its name
}

// class divides the rules by what a look for them costs. Established and
// TIME_WAIT sockets are the many; one look for both classes costs as much as
// its dearer half, so the cheap one is never made to wait for that.
type class uint8

const (
	sparse class = iota
	populous
	classes
)

const manyStates = 1<<ssfilter.Established | 1<<ssfilter.TimeWait

// Compile makes a Program of a checked set.
func Compile(set *rules.Set) *Program {
	p := &Program{settings: set.Settings, protect: set.Protect, rules: make([]rule, len(set.Rules))}
	for i, r := range set.Rules {
		c := sparse
		for _, m := range r.Match {
			if m.States&manyStates != 0 {
				c = populous
			}
		}
		p.rules[i] = rule{Rule: r, class: c, id: sock.RuleSum(r.Name)}
		if !r.Enabled {
			continue
		}
		gap := p.settings.Interval
		if gap == 0 {
			gap = gapOf(r)
		}
		if p.gaps[c] == 0 || gap < p.gaps[c] {
			p.gaps[c] = gap
		}
	}
	return p
}

// gapOf is how often a rule wants new sockets to be looked for: a sixteenth of
// its shortest time bound, within 1 s and 30 s.
func gapOf(r rules.Rule) time.Duration {
	shortest := time.Duration(0)
	for _, m := range r.Match {
		b := max(m.InStateFor, m.IdleFor, m.StalledFor)
		if b > 0 && (shortest == 0 || b < shortest) {
			shortest = b
		}
	}
	if shortest == 0 {
		return defaultGap
	}
	return min(max(shortest/16, time.Second), 30*time.Second)
}

// query is the one question that answers all enabled rules of the classes.
func (p *Program) query(of classSet) sock.Query {
	var q sock.Query
	var any []ssfilter.Expr
	for i := range p.rules {
		r := &p.rules[i]
		if !r.Enabled || !of.has(r.class) {
			continue
		}
		for _, m := range r.Match {
			q.States |= m.States
			any = append(any, m.Where)
		}
	}
	q.Where = ssfilter.Or(any...)
	return q
}

// passive reports whether no socket can begin to match a rule of the classes
// without a segment arriving: all their states are entered by one, and none
// asks for data queued towards a peer that has fallen silent, or for what the
// program does.
func (p *Program) passive(of classSet) bool {
	const byProgram = 1<<ssfilter.SynSent | 1<<ssfilter.FinWait1 | 1<<ssfilter.LastAck | 1<<ssfilter.Close | 1<<ssfilter.Listening | 1<<ssfilter.BoundInactive
	for i := range p.rules {
		r := &p.rules[i]
		if !r.Enabled || !of.has(r.class) {
			continue
		}
		for _, m := range r.Match {
			if m.States&byProgram != 0 || m.StalledFor > 0 || m.Unread != nil || m.InBacklog != nil || len(m.Verdicts) > 0 || len(m.Users) > 0 {
				return false
			}
		}
	}
	return true
}

// classSet holds bit 1<<c for each class c.
type classSet uint8

func (set classSet) has(c class) bool { return set&(1<<c) != 0 }

// lasts is the part of a match that holds or not for as long as the socket
// stays in its state.
func lasts(m *rules.Match, s *sock.Socket) ssfilter.Tri {
	if !m.States.Has(s.State) {
		return ssfilter.False
	}
	holds := ssfilter.True
	if m.Where != nil {
		holds = m.Where.Eval(&s.Conn)
	}
	if len(m.Users) > 0 {
		holds = min(holds, ofUser(m.Users, s))
	}
	return holds
}

// ofUser is unknown where the kernel reports uid 0 for want of a better: for a
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

// atPresent is the part of a match that the program or its peer can change
// while the socket stays in its state.
func atPresent(m *rules.Match, s *sock.Socket) ssfilter.Tri {
	ok := m.Unread == nil || m.Unread.Holds(uint64(s.RQueue))
	ok = ok && (m.InBacklog == nil || *m.InBacklog == inBacklog(s))
	ok = ok && (m.IdleFor == 0 || !sending(s)) && (m.StalledFor == 0 || sending(s))
	if len(m.Verdicts) > 0 {
		among := false
		for _, v := range m.Verdicts {
			among = among || v == Verdict(s)
		}
		ok = ok && among
	}
	return ssfilter.TriOf(ok)
}

// among reports whether any of the matches holds, time bounds aside.
func among(matches []rules.Match, s *sock.Socket) ssfilter.Tri {
	holds := ssfilter.False
	for i := range matches {
		holds = max(holds, min(lasts(&matches[i], s), atPresent(&matches[i], s)))
	}
	return holds
}

// candidate reports whether the socket may come to match the rule in the state
// it is in.
func (r *rule) candidate(s *sock.Socket) bool {
	for i := range r.Match {
		if lasts(&r.Match[i], s) != ssfilter.False {
			return true
		}
	}
	return false
}

// dueAt is the instant at which the time bounds of a match are met: counted from
// the later of entry and progress (base), and from when something was queued. It
// is never where they cannot be met before something is queued, or acknowledged:
// that will begin the count anew.
func dueAt(m *rules.Match, base, queued sock.Instant) sock.Instant {
	switch {
	case m.StalledFor > 0 && queued == never, m.IdleFor > 0 && queued != never:
		return never
	case m.StalledFor > 0:
		return max(base.Add(m.InStateFor), max(base, queued).Add(m.StalledFor))
	default:
		return base.Add(max(m.InStateFor, m.IdleFor))
	}
}

// Verdict says why a socket is in CLOSE_WAIT; it is empty in other states.
func Verdict(s *sock.Socket) rules.Verdict {
	switch {
	case s.State != ssfilter.CloseWait:
		return ""
	case inBacklog(s):
		return rules.InBacklog
	case sending(s):
		return rules.StillSending
	case s.RQueue == 0:
		return rules.EOFReadNotClosed
	case s.RQueue == 1: // the FIN alone: tcp_diag_get_info() counts it as one byte
		return rules.EOFUnread
	default:
		return rules.UnreadData
	}
}

// inBacklog reports whether the socket waits in an accept queue: it is a full
// one, and no program has it yet.
func inBacklog(s *sock.Socket) bool {
	return s.Inode == 0 && (s.State == ssfilter.Established || s.State == ssfilter.CloseWait || s.State == ssfilter.SynRecv)
}

// orphan reports whether the program has closed the socket and the kernel
// carries it on.
func orphan(s *sock.Socket) bool {
	return s.Inode == 0 && !s.Minisocket() && !inBacklog(s)
}

// defaultGap is how often rules without a time bound look for new sockets.
const defaultGap = 15 * time.Second
