// Package match decides whether a rule means a socket: certainly, perhaps or not,
// and when that falls due; and which sockets are never touched. It knows of rules
// and single sockets, and of nothing that was done before.
package match

import (
	"cmp"
	"iter"
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Program is a rules.Set made ready for matching. It is immutable: the thread
// that scans and the goroutine that decides share it.
type Program struct {
	Settings rules.Settings
	Protect  []rules.Match
	Rules    []Rule
	*index
	protectBut          []rules.Match               // those of Protect that do not ask who holds a socket
	ProtectNeedsHolders bool                        // who holds a socket decides whether it is protected from a rule
	NeedsHolders        bool                        // who holds a socket decides for a rule
	Cmdlines            []string                    // patterns that the command lines of holders are compared with
	NeedsFDs            bool                        // how many descriptors processes use decides for a rule
	NeedsPressure       bool                        // a rule is about a network namespace or the host as a whole
	MeasurePorts        []*Rule                     // that measure port usage
	Queries             [1 << NumClasses]sock.Query // that answer all enabled rules of the classes
	ShareQuery          bool                        // the question for both classes has no more of the many told
	Intervals           [NumClasses]time.Duration   // wanted between two scans; 0: no rule in the class
	CounterInterval     time.Duration               // wanted between two readings of the counters; 0: no rule needs only those
}

// HoldersDecide reports whether who holds a socket decides what becomes of it.
func (p *Program) HoldersDecide() bool { return p.NeedsHolders || p.ProtectNeedsHolders }

// HoldersDecideFor reports whether they decide on an action of the rule.
func (p *Program) HoldersDecideFor(r *Rule, a *rules.Action) bool {
	return r.NeedsHolders || p.ProtectNeedsHolders && a.Kind.On == rules.OnSocket
}

// GuardBut is Guard where it is not known who holds the socket: why it is not to be touched
// all the same.
func (p *Program) GuardBut(s *sock.Socket, capabilities Capabilities, self int) Reason {
	return Guard(subject.Of(s), p.protectBut, capabilities, self)
}

// Class divides the rules by what a scan for them costs. Established and
// TIME_WAIT sockets are the many; one scan for both classes costs as much as
// its more expensive half, so the cheap one is never made to wait for that.
type Class uint8

const (
	Cheap Class = iota
	Expensive
	NumClasses
)

// Compile makes a Program of a checked set.
func Compile(set *rules.Set) *Program {
	p := &Program{Settings: set.Settings, Protect: set.Protect, Rules: make([]Rule, len(set.Rules))}
	for i := range p.Rules {
		p.Rules[i] = newRule(&set.Rules[i], i)
		r := &p.Rules[i]
		if !r.Enabled {
			continue
		}
		interval := &p.Intervals[r.Class]
		if r.CounterOnly {
			interval = &p.CounterInterval
		}
		if wanted := cmp.Or(p.Settings.Interval, r.interval()); *interval == 0 || wanted < *interval {
			*interval = wanted
		}
		p.NeedsHolders = p.NeedsHolders || r.NeedsHolders
		p.NeedsFDs = p.NeedsFDs || r.MeasuresFDs
		p.NeedsPressure = p.NeedsPressure || r.Whole
		if r.Measures(rules.PortUsage) {
			p.MeasurePorts = append(p.MeasurePorts, r)
		}
	}
	p.protectBut = WithoutHolders(p.Protect)
	touches := func(r Rule) bool { return r.Enabled && r.Touches }
	p.ProtectNeedsHolders = NeedHolders(p.Protect) && slices.ContainsFunc(p.Rules, touches)
	p.Cmdlines = Cmdlines(asked(set))
	p.index = newIndex(p.Rules, indexSize)
	for of := range p.Queries {
		p.Queries[of] = p.query(ClassSet(of))
	}
	// The states are asked for apart from the rest: a rule about few states, and any
	// socket in them, would have all of the many told.
	many, both := p.Queries[1<<Expensive].Where, p.Queries[AllClasses].Where
	p.ShareQuery = many == nil || both != nil && both.String() == many.String()
	return p
}

// asked are the matches that may be compared with sockets.
func asked(set *rules.Set) []rules.Match {
	all := slices.Clone(set.Protect)
	for i := range set.Rules {
		if set.Rules[i].Enabled {
			all = append(append(all, set.Rules[i].Match...), set.Rules[i].Exclude...)
		}
	}
	return all
}

// Cmdlines returns the patterns for command lines that the matches name, each once.
func Cmdlines(matches []rules.Match) (all []string) {
	for i := range matches {
		all = append(all, matches[i].Cmdlines...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// maxFullMatches is how many matches a query says in full. They are tried one after
// the other on each socket, by the kernel and by who reads its answer: of more
// than that only the ports are asked for, of which any number is one search.
const maxFullMatches = 256

// tellsAutobound holds for every socket. A scan that asks for it tells of each whether
// it is autobound, which no answer says by itself.
var tellsAutobound = ssfilter.Not(ssfilter.And(ssfilter.Autobound(), ssfilter.Or()))

// scannedFor yields the rules of the classes that scans are made for.
func (p *Program) scannedFor(of ClassSet) iter.Seq[*Rule] {
	return func(yield func(*Rule) bool) {
		for i := range p.Rules {
			if r := &p.Rules[i]; r.Scanned() && of.Has(r.Class) && !yield(r) {
				return
			}
		}
	}
}

// query returns the one question that answers all enabled rules of the classes.
func (p *Program) query(of ClassSet) sock.Query {
	var q sock.Query
	var any []ssfilter.Expr
	asks := func(m rules.Match) bool { return ssfilter.Asks(m.Where).Autobound }
	tell := slices.ContainsFunc(p.Protect, asks)
	for r := range p.scannedFor(of) {
		if r.Measures(rules.PortUsage) {
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
	if len(any) > maxFullMatches {
		for i, where := range any {
			if side, ranges, _, ok := portsOf(where); ok {
				any[i] = ssfilter.Ports(side, ranges...)
			}
		}
	}
	q.Where = ssfilter.Or(any...)
	if tell && !ssfilter.Asks(q.Where).Autobound {
		q.Where = ssfilter.And(q.Where, tellsAutobound)
	}
	return q
}

// Passive reports whether no socket can begin to match a rule of the classes
// without a segment arriving: all their states are entered by one, and none
// asks for data queued towards a peer that has fallen silent, or for what the
// program does or sets.
func (p *Program) Passive(of ClassSet) bool {
	for r := range p.scannedFor(of) {
		// A condition may come to hold because sockets are gone, which a program can
		// bring about by itself.
		fewer := func(c rules.Condition) bool { return c.Op != rules.Greater && c.Op != rules.GreaterEqual }
		if r.Volatile || r.MeasuresFDs || r.Measures(rules.PortUsage) || slices.ContainsFunc(r.When, fewer) {
			return false
		}
		for i := range r.Match {
			if m := &r.Match[i]; m.States&sock.ByProgram != 0 || m.StalledFor > 0 || !bare(m) {
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

// MetByNobody reports whether a rule of the classes may be about to fire where
// there is no socket at all.
func (p *Program) MetByNobody(of ClassSet) bool {
	unmet := func(c rules.Condition) bool { return !c.Holds(0) }
	for r := range p.scannedFor(of) {
		if r.Grouped && len(r.GroupBy) == 0 && !slices.ContainsFunc(r.When, unmet) {
			return true
		}
	}
	return false
}

// Unmet reports whether so few timewait sockets leave a condition of every rule
// of the classes unmet: each is about no other sockets, and wants more of them.
func (p *Program) Unmet(of ClassSet, timeWaits uint64) bool {
	wantsMore := func(c rules.Condition) bool {
		return c.Metric == rules.Count && (c.Op == rules.Greater || c.Op == rules.GreaterEqual) && !c.Holds(float64(timeWaits))
	}
	for r := range p.scannedFor(of) {
		if !r.OnlyTimeWait() || !slices.ContainsFunc(r.When, wantsMore) {
			return false
		}
	}
	return true
}

// ClassSet holds bit 1<<c for each class c.
type ClassSet uint8

func (set ClassSet) Has(c Class) bool { return set&(1<<c) != 0 }

const AllClasses ClassSet = 1<<NumClasses - 1

// Scanned are the classes of the enabled rules.
func (p *Program) Scanned() (of ClassSet) {
	for c, gap := range p.Intervals {
		if gap > 0 {
			of |= 1 << c
		}
	}
	return of
}

// WouldKill reports whether a rule would kill the socket once it is due, if it stays as
// it is; its holders may still spare it, where nobody has looked for them.
func (p *Program) WouldKill(s subject.Subject) bool {
	if s.MPTCP || mayBeAny(p.Protect, s) {
		return false
	}
	held := heldByOnly
	if s.Holders == nil {
		held = whoever
	}
	for r, m := range p.index.Candidates(s) {
		if r.Destructive && !r.DryRun && (m.StalledFor > 0 || !s.InUse()) && min(lasts(m, s, held), AtPresent(m, s)) == ssfilter.True && !mayBeAny(r.Exclude, s) {
			return true
		}
	}
	return false
}

// mayBeAny is whether Any is not certainly false. Where nobody has looked for holders, they
// are taken for others than those that are named.
func mayBeAny(matches []rules.Match, s subject.Subject) bool {
	if s.Holders != nil {
		return Any(matches, s) != ssfilter.False
	}
	for i := range matches {
		if m := &matches[i]; min(lasts(m, s, others), AtPresent(m, s)) != ssfilter.False {
			return true
		}
	}
	return false
}
