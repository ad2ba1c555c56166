package engine

import (
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Program is a rules.Set made ready for matching. It is immutable: the thread
// that scans and the goroutine that decides share it.
type Program struct {
	settings rules.Settings
	protect  []rules.Match
	rules    []rule
	index    *index
	ported   []*rule                  // that measure port usage
	queries  [1 << classes]sock.Query // that answer all enabled rules of the classes
	shares   bool                     // the question for both classes has no more of the many told
	gaps     [classes]time.Duration   // wanted between two scans; 0: no rule in the class
	sample   time.Duration            // wanted between two readings of the counters; 0: no rule needs only those
}

type rule struct {
	rules.Rule
	position int // in the file
	class    class
	id       uint64 // sock.RuleSum of its name
	volatile bool   // what it does not match now it may match later, in the same state
	grouped  bool   // it is about groups
	total    bool   // a counter alone tells its one group
	timed    bool   // a match of it has a time bound
	destroys bool   // it has a destructive action
	alerts   bool   // it has an alert
}

// sampled reports whether scans are made for the rule.
func (r *rule) sampled() bool { return r.Enabled && !r.total }

// measures reports whether a condition of the rule asks for the metric.
func (r *rule) measures(m rules.Metric) bool {
	asks := func(c rules.Condition) bool { return c.Metric == m }
	return slices.ContainsFunc(r.When, asks) || slices.ContainsFunc(r.Until, asks)
}

// class divides the rules by what a scan for them costs. Established and
// TIME_WAIT sockets are the many; one scan for both classes costs as much as
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
		changes := func(m rules.Match) bool { return ssfilter.Volatile(m.Where) }
		p.rules[i] = rule{
			Rule: r, position: i, class: c, id: sock.RuleSum(r.Name), volatile: slices.ContainsFunc(r.Match, changes) || slices.ContainsFunc(r.Exclude, changes),
			grouped: len(r.When) > 0, total: isTotal(&r), timed: slices.ContainsFunc(r.Match, func(m rules.Match) bool { return isTimed(&m) }),
			destroys: slices.ContainsFunc(r.Then, func(a rules.Action) bool { return a.Kind.Destructive }),
			alerts:   slices.ContainsFunc(r.Then, func(a rules.Action) bool { return a.Kind == rules.Alert }),
		}
		if !r.Enabled {
			continue
		}
		gap := p.settings.Interval
		if gap == 0 {
			gap = gapOf(r)
		}
		if p.rules[i].total {
			if p.settings.Interval == 0 {
				gap = min(gap, totalGap)
			}
			if p.sample == 0 || gap < p.sample {
				p.sample = gap
			}
			continue
		}
		if p.rules[i].measures(rules.PortUsage) {
			p.rules[i].class = populous
			c = populous
			p.ported = append(p.ported, &p.rules[i])
		}
		if p.gaps[c] == 0 || gap < p.gaps[c] {
			p.gaps[c] = gap
		}
	}
	p.index = newIndex(p.rules, indexSize)
	for of := range p.queries {
		p.queries[of] = p.query(classSet(of))
	}
	// The states are asked for apart from the rest: a rule about few states, and any
	// socket in them, would have all of the many told.
	many, both := p.queries[1<<populous].Where, p.queries[allClasses].Where
	p.shares = many == nil || both != nil && both.String() == many.String()
	return p
}

// totalGap is how often a counter is read at least that a rule needs alone: it
// costs microseconds.
const totalGap = 5 * time.Second

// isTotal reports whether the counter of timewait sockets tells all that the rule
// asks. It counts minisockets in FIN_WAIT2, too, which are as little of a
// program's doing.
func isTotal(r *rules.Rule) bool {
	for _, m := range r.Match {
		if m.States != 1<<ssfilter.TimeWait || m.Where != nil || len(m.Users)+len(m.Verdicts) > 0 || isTimed(&m) || m.Unread != nil || m.InBacklog != nil {
			return false
		}
	}
	for _, c := range slices.Concat(r.When, r.Until) {
		if c.Metric != rules.Count {
			return false
		}
	}
	destroys := slices.ContainsFunc(r.Then, func(a rules.Action) bool { return a.Kind.Destructive })
	return len(r.When) > 0 && len(r.GroupBy)+len(r.Exclude) == 0 && !destroys
}

// isTimed reports whether a match has a time bound.
func isTimed(m *rules.Match) bool { return max(m.InStateFor, m.IdleFor, m.StalledFor) > 0 }

// gapOf is how often a rule wants new sockets to be looked for: a sixteenth of
// its shortest time bound, within 1 s and 30 s.
func gapOf(r rules.Rule) time.Duration {
	shortest := r.For
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

// mostInFull is how many matches a query says in full. They are tried one after
// the other on each socket, by the kernel and by who reads its answer: of more
// than that only the ports are asked for, of which any number is one search.
const mostInFull = 256

// telling holds for every socket. A scan that asks for it tells of each whether
// it is autobound, which no answer says by itself.
var telling = ssfilter.Not(ssfilter.And(ssfilter.Autobound(), ssfilter.Or()))

// query is the one question that answers all enabled rules of the classes.
func (p *Program) query(of classSet) sock.Query {
	var q sock.Query
	var any []ssfilter.Expr
	asks := func(m rules.Match) bool { return ssfilter.AsksAutobound(m.Where) }
	tell := slices.ContainsFunc(p.protect, asks)
	for i := range p.rules {
		r := &p.rules[i]
		if !r.sampled() || !of.has(r.class) {
			continue
		}
		if r.measures(rules.PortUsage) {
			// A port is used up in any of them, and who bound it tells more of it.
			q.States |= ssfilter.Connected | ssfilter.Of(ssfilter.Listening, ssfilter.BoundInactive)
			tell = true
		}
		for _, m := range r.Match {
			q.States |= m.States
			any = append(any, m.Where)
		}
		tell = tell || slices.ContainsFunc(r.Match, asks) || slices.ContainsFunc(r.Exclude, asks)
	}
	if len(any) > mostInFull {
		for i, where := range any {
			if side, ranges, ok := portsOf(where); ok {
				any[i] = ssfilter.Ports(side, ranges...)
			}
		}
	}
	q.Where = ssfilter.Or(any...)
	if tell && !ssfilter.AsksAutobound(q.Where) {
		q.Where = ssfilter.And(q.Where, telling)
	}
	return q
}

// passive reports whether no socket can begin to match a rule of the classes
// without a segment arriving: all their states are entered by one, and none
// asks for data queued towards a peer that has fallen silent, or for what the
// program does or sets.
func (p *Program) passive(of classSet) bool {
	const byProgram = 1<<ssfilter.SynSent | 1<<ssfilter.FinWait1 | 1<<ssfilter.LastAck | 1<<ssfilter.Close | 1<<ssfilter.Listening | 1<<ssfilter.BoundInactive
	for i := range p.rules {
		r := &p.rules[i]
		if !r.sampled() || !of.has(r.class) {
			continue
		}
		// A condition may come to hold because sockets are gone, which a program can
		// bring about by itself.
		fewer := func(c rules.Condition) bool { return c.Op != rules.Greater && c.Op != rules.GreaterEqual }
		if r.volatile || r.measures(rules.PortUsage) || slices.ContainsFunc(r.When, fewer) {
			return false
		}
		for i := range r.Match {
			if m := &r.Match[i]; m.States&byProgram != 0 || m.StalledFor > 0 || !bare(m) {
				return false
			}
		}
		// What ceases to be excluded begins to match.
		for i := range r.Exclude {
			if !bare(&r.Exclude[i]) {
				return false
			}
		}
	}
	return true
}

// bare reports whether a match asks for nothing that the program does or sets, but
// for what its filter asks.
func bare(m *rules.Match) bool {
	return m.Unread == nil && m.InBacklog == nil && len(m.Verdicts) == 0 && len(m.Users) == 0
}

// onlyTimeWait reports whether the rule is about no other sockets.
func (r *rule) onlyTimeWait() bool {
	return !slices.ContainsFunc(r.Match, func(m rules.Match) bool { return m.States != 1<<ssfilter.TimeWait })
}

// metByNobody reports whether a rule of the classes may be about to fire where
// there is no socket at all.
func (p *Program) metByNobody(of classSet) bool {
	var none Measured
	for i := range p.rules {
		if r := &p.rules[i]; r.sampled() && of.has(r.class) && r.grouped && len(r.GroupBy) == 0 && none.all(r.When) {
			return true
		}
	}
	return false
}

// unmet reports whether so few timewait sockets leave a condition of every rule
// of the classes unmet: each is about no other sockets, and wants more of them.
func (p *Program) unmet(of classSet, timeWaits uint64) bool {
	wantsMore := func(c rules.Condition) bool {
		return c.Metric == rules.Count && (c.Op == rules.Greater || c.Op == rules.GreaterEqual) && !c.Holds(float64(timeWaits))
	}
	for i := range p.rules {
		r := &p.rules[i]
		if !r.sampled() || !of.has(r.class) {
			continue
		}
		if !r.onlyTimeWait() || !slices.ContainsFunc(r.When, wantsMore) {
			return false
		}
	}
	return true
}

// classSet holds bit 1<<c for each class c.
type classSet uint8

func (set classSet) has(c class) bool { return set&(1<<c) != 0 }

const allClasses classSet = 1<<classes - 1

// lasts is the part of a match that holds or not for as long as the socket stays
// in its state, or, where a program sets a mark or a device, until it does: a
// later scan shows that, which passive has not skipped.
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
	ok = ok && (m.InBacklog == nil || *m.InBacklog == s.InBacklog())
	ok = ok && (m.IdleFor == 0 || !s.InUse()) && (m.StalledFor == 0 || s.InUse())
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

// dooms reports whether a rule would kill the socket once it is due, if it stays as
// it is; its holders may still spare it.
func (p *Program) dooms(s *sock.Socket) bool {
	if s.MPTCP || among(p.protect, s) != ssfilter.False {
		return false
	}
	for r, m := range p.index.candidates(s) {
		if r.destroys && !r.DryRun && (m.StalledFor > 0 || !s.InUse()) && min(lasts(m, s), atPresent(m, s)) == ssfilter.True && among(r.Exclude, s) == ssfilter.False {
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

// defaultGap is how often rules without a time bound look for new sockets.
const defaultGap = 15 * time.Second
