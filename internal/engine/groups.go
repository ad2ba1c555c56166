package engine

import (
	"cmp"
	"log/slog"
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// mostTurns is how many groups of a rule are said one by one that change their
// phase at once.
const mostTurns = 100

// groupID is a group's properties, as Append of its rule's Key writes them.
type groupID string

// labels returns the properties of a group, in the order of group_by.
func (id groupID) labels(by subject.Key) []subject.Label {
	labels, _ := by.Labels(string(id))
	return labels
}

// ruleGroups are the groups of one rule. A rule about single sockets that alerts
// has one, which fires while any socket is due.
type ruleGroups struct {
	groups  map[groupID]*group
	scanned sock.Instant  // when the last whole scan was in, or the counters; 0: there was none in this run
	still   sock.Instant  // until when the counters tell that nothing has come since
	tallied int           // groups that it found
	paths   int           // and paths, for the usage of ports
	seen    []*cookieSet  // at the last two, for growth: one may miss what is there
	full    spell         // of scans that found more than there is room for
	in      map[Phase]int // how many groups are pending, and fire
	nearest []nearGroup   // of those that were quiet at the last sample: at most mostShown

	sockets int // of a rule about single sockets: how many are due and match

	fresh  bool         // there is something new to alert about
	next   sock.Instant // when an alarm begins or ends by time alone
	others []alarm      // about the groups that are not told one by one

	firing bool              // a group does
	began  sock.Instant      // when the first began to; 0: in an earlier run
	before map[Result]uint64 // what had been done then

	byOthers map[string]map[Result]uint64 // what other rules did to its sockets since, by their names
}

// nearGroup is a quiet group, and how near it is to firing.
type nearGroup struct {
	id   groupID
	near float64
	Measured
}

func newRuleGroups() *ruleGroups {
	return &ruleGroups{groups: make(map[groupID]*group), in: make(map[Phase]int), next: never}
}

// add puts a group among those that are remembered.
func (rg *ruleGroups) add(id groupID, g *group) {
	rg.groups[id] = g
	rg.account(Quiet, g.phase())
}

// account keeps count of the groups in each phase.
func (rg *ruleGroups) account(from, to Phase) {
	rg.in[from]--
	rg.in[to]++
}

// astir reports whether a group is about to fire, or does.
func (rg *ruleGroups) astir() bool { return rg.in[Pending]+rg.in[Firing] > 0 }

// A Turn is a group's change from one phase to another.
type Transition struct {
	Rule   string
	DryRun bool
	Takes  bool              // the rule takes sockets away
	When   []rules.Condition // the rule's; empty: it is about single sockets
	Group  []subject.Label
	Measured
	From, To Phase
	Since    sock.Instant // the condition has held since, or did
}

// take takes in what a whole scan counted for a rule.
func (e *Engine) take(r *ruleState, t *groupTally, ports *portUse, sent, got sock.Instant) {
	rg := r.groups
	rg.nearest = rg.nearest[:0]
	turns := 0
	doubted := rg.scanned != 0 && sent.Sub(rg.scanned) > e.trusted(r.Class)
	since := max(rg.scanned, rg.still) // what is new came after
	if r.OnlyTimeWait() {
		since = max(since, got.Add(-sock.TimeWaitLen))
	}
	measures := ports != nil && r.Measures(rules.PortUsage)
	if measures {
		t.takePorts(ports)
		rg.paths = ports.paths.n
	}
	t.groups.all(func(number uint32, key []byte, c *tally) {
		m := Measured{Count: int(c.count), BacklogUsage: float64(c.backlog)}
		if c.count > 0 && c.oldest != never {
			m.Oldest = got.Sub(c.oldest)
		}
		if measures {
			m.PortUsage = ports.percent(c.ports)
		}
		g, known := rg.groups[groupID(key)]
		if !known {
			if near := m.nearness(r.When); c.fresh == 0 && near < 1 {
				rg.approach(key, m, near) // and nothing else: of 100,000 groups, most are like that
				return
			}
			g = newGroup()
		}
		if doubted && g.firing != never {
			g.doubted, g.again = true, never
		}
		if t.now != nil {
			m.Growth = rg.grow(g, c.fresh, since, got)
		}
		if some := t.examples[number]; len(some) > 0 {
			g.examples = some
		}
		if e.sample(r, groupID(key), g, known, m, sent, got, turns < mostTurns) {
			turns++
		}
	})
	rg.tallied = t.groups.n
	if t.now != nil {
		rg.seen = append([]*cookieSet{t.now}, rg.seen[:min(1, len(rg.seen))]...)
	}
	if turns > mostTurns {
		e.note(slog.LevelWarn, "more groups changed at once than are told one by one", slog.String("rule", r.Name), slog.Int("groups", turns-mostTurns))
	}
	if t.omitted > 0 {
		e.shed(r, got)
	}
	if began, _ := rg.full.note(t.omitted > 0); began {
		e.note(slog.LevelWarn, "the rule has more groups than are kept count of: those beyond are left out, and those that have been quiet or empty the longest are forgotten; group by fewer keys, or match less",
			slog.String("rule", r.Name), slog.Int("groups", maxGroups), slog.Int("sockets_left_out", t.omitted))
	}
	rg.fresh = true
}

// grow takes in how many sockets of a group match for the first time, which came
// after since, and returns how many a minute that makes.
func (rg *ruleGroups) grow(g *group, fresh uint32, since, got sock.Instant) float64 {
	switch {
	case g.growing == nil && rg.scanned == 0:
		g.growing = &growth{at: got}
	case g.growing == nil:
		g.growing = &growth{at: since}
	case rg.scanned == 0:
		g.growing.miss(got)
	default:
		g.growing.add(0, max(since, g.growing.at))
	}
	return g.growing.add(fresh, got)
}

// sample has one group take in a sample, and reports whether that changed its
// phase; known: it is remembered, said: the change is to be told.
func (e *Engine) sample(r *ruleState, id groupID, g *group, known bool, m Measured, sent, got sock.Instant, said bool) (turned bool) {
	rg := r.groups
	from, since := g.phase(), g.holding
	g.sample(&r.Rule.Rule, m, sent, got)
	to := g.phase()
	if to != Quiet {
		since = g.holding
	}
	if to == Quiet {
		rg.approach([]byte(id), m, m.nearness(r.When))
	}
	switch worth := to != Quiet || m.Growth > 0 || len(g.alarms) > 0; {
	case worth && !known:
		rg.groups[id] = g
	case !worth && known:
		delete(rg.groups, id)
	}
	if from == to {
		return false
	}
	rg.account(from, to)
	r.began(got)
	e.turned = true
	if said {
		e.turn(r.Rule, id, g, from, since)
	}
	if to == Firing && slices.ContainsFunc(r.Then, func(a rules.Action) bool { return a.Kind == rules.Log }) {
		r.history.results[outcome{rules.Log, Done}]++
	}
	if to == Firing && r.Destructive {
		next := &e.sight.next[r.Class]
		*next = min(*next, e.sight.soonest(r.Class, got)) // for its sockets
	}
	return true
}

// turn tells that a group has changed its phase.
func (e *Engine) turn(r *match.Rule, id groupID, g *group, from Phase, since sock.Instant) {
	e.plan.Transitions = append(e.plan.Transitions, Transition{
		Rule: r.Name, DryRun: r.DryRun, Takes: r.Destructive, When: r.When, Group: id.labels(r.By), Measured: g.Measured, From: from, To: g.phase(), Since: since,
	})
}

// approach keeps a quiet group in mind for an overview if it is among the
// nearest to firing.
func (rg *ruleGroups) approach(id []byte, m Measured, near float64) {
	if n := len(rg.nearest); n == mostShown && near <= rg.nearest[n-1].near {
		return
	}
	rg.nearest = keepLeast(rg.nearest, mostShown, nearGroup{groupID(id), near, m}, func(a, b nearGroup) int { return cmp.Compare(b.near, a.near) })
}

// atMost has the overview show of quiet groups no more sockets than there can be.
func (rg *ruleGroups) atMost(r *match.Rule, n int) {
	for i := range rg.nearest {
		if g := &rg.nearest[i]; g.Count > n {
			g.Count = n
			g.near = g.nearness(r.When)
		}
	}
	if n == 0 && len(r.GroupBy) > 0 {
		rg.nearest = rg.nearest[:0] // it is no group any more
	}
	slices.SortFunc(rg.nearest, func(a, b nearGroup) int { return cmp.Compare(b.near, a.near) })
}

// shed makes room for new groups: it forgets the quiet ones that have had no socket
// for the longest, and if those are too few it ends such as fire without any, which
// their until may never do.
func (e *Engine) shed(r *ruleState, now sock.Instant) {
	rg := r.groups
	const room = maxGroups * 9 / 10
	for _, id := range rg.longestEmpty(len(rg.groups)-room, func(g *group) bool { return g.phase() == Quiet && len(g.alarms) == 0 }) {
		delete(rg.groups, id)
	}
	for _, id := range rg.longestEmpty(len(rg.groups)-room, func(g *group) bool { return g.phase() == Firing && g.nothing() }) {
		g := rg.groups[id]
		g.end(now)
		rg.account(Firing, Quiet)
		e.turned = true
		if len(g.alarms) == 0 { // else it is forgotten with them
			delete(rg.groups, id)
		}
	}
	r.began(now)
}

// longestEmpty are the n groups of a kind that have had no socket for the longest.
func (rg *ruleGroups) longestEmpty(n int, of func(*group) bool) []groupID {
	if n <= 0 {
		return nil
	}
	type member struct {
		busy sock.Instant
		id   groupID
	}
	var all []member
	for id, g := range rg.groups {
		if of(g) {
			all = append(all, member{g.busy, id})
		}
	}
	slices.SortFunc(all, func(a, b member) int { return cmp.Compare(a.busy, b.busy) })
	ids := make([]groupID, min(n, len(all)))
	for i := range ids {
		ids[i] = all[i].id
	}
	return ids
}

// nextFiring is when the first pending group may fire.
func (rg *ruleGroups) nextFiring(r *match.Rule) sock.Instant {
	first := never
	if rg.in[Pending] > 0 {
		for _, g := range rg.groups {
			first = min(first, g.due(&r.Rule))
		}
	}
	return first
}

// sampleTotals takes in what the counters tell of the rules that need nothing else.
func (e *Engine) sampleTotals(in CountersRead, now sock.Instant) {
	s := &e.sight
	if e.program.CounterInterval == 0 {
		return
	}
	known := in.OK && in.HasTimeWait
	if began, _ := s.deaf.note(!known); began {
		e.note(slog.LevelWarn, "the counter of timewait sockets cannot be read: nothing is concluded about rules that need only that")
	}
	s.sample = now.Add(e.program.CounterInterval)
	for _, r := range e.rules {
		if !r.Enabled || !r.CounterOnly {
			continue
		}
		rg := r.groups
		if known {
			g, remembered := rg.groups[""]
			if !remembered {
				g = newGroup()
			}
			rg.nearest, rg.scanned = rg.nearest[:0], now
			e.sample(r, "", g, remembered, Measured{Count: int(in.TimeWait)}, s.asked, now, true)
			rg.fresh = true
		}
		if due := rg.nextFiring(r.Rule); known || due > now {
			s.sample = min(s.sample, max(now, due))
		}
	}
}

// fired is since when the group of a socket fires, as far as its sockets may be
// acted on for that; never: it does not, or that is doubted. What nobody in this run
// has seen, or not for long, is not enough to act on.
func (e *Engine) fired(r *ruleState, s *sock.Socket, now sock.Instant) (at sock.Instant, doubted bool) {
	rg, g := r.groups, r.groupOf(s)
	switch {
	case g == nil || g.firing == never:
		return never, false
	case g.doubted || rg.scanned == 0 || now.Sub(rg.scanned) > e.trusted(r.Class):
		return never, true
	}
	return g.firing, false
}

// trusted is for how long after a scan what fires is acted on.
func (e *Engine) trusted(c match.Class) time.Duration {
	return max(outage, 2*e.sight.gap[c])
}

// groupOf is what is remembered of the group of a socket; nil: nothing.
func (r *ruleState) groupOf(s *sock.Socket) *group {
	return r.groups.groups[groupID(r.By.Append(nil, subject.Subject{Socket: s}))]
}
