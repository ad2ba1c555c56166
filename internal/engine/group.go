package engine

import (
	"cmp"
	"log/slog"
	"math"
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

const (
	// growthOver is how long growth is counted over, in slots of growthSlot.
	growthOver = 5 * time.Minute
	growthSlot = 30 * time.Second
	// mostTurns is how many groups of a rule are said one by one that change their
	// phase at once.
	mostTurns = 100
)

// Phase is how a group stands towards its rule.
type Phase string

// The phases of a group.
const (
	Quiet   Phase = "quiet"   // its rule's when does not hold
	Pending Phase = "pending" // when holds, and not yet for long enough
	Firing  Phase = "firing"
)

// Measured is what is known of a group by its last sample. What no condition of
// its rule asks for may be zero, but for Count and Oldest.
type Measured struct {
	Count        int
	Growth       float64       // sockets a minute
	PortUsage    float64       // percent
	BacklogUsage float64       // percent
	Oldest       time.Duration // in its state, at least; 0: not known
}

// Of is the value that a condition on the metric compares.
func (m *Measured) Of(metric rules.Metric) float64 {
	switch metric {
	case rules.Count:
		return float64(m.Count)
	case rules.Growth:
		return m.Growth
	case rules.PortUsage:
		return m.PortUsage
	default:
		return m.BacklogUsage
	}
}

// all reports whether each of the conditions holds.
func (m *Measured) all(conditions []rules.Condition) bool {
	return !slices.ContainsFunc(conditions, func(c rules.Condition) bool { return !c.Holds(m.Of(c.Metric)) })
}

// nothing reports whether there is nothing of the group any more.
func (m *Measured) nothing() bool { return m.Count == 0 && m.Growth == 0 && m.PortUsage == 0 }

// nearness is how near the value is to meeting all conditions: 1 if it does, and
// below that if not.
func (m *Measured) nearness(conditions []rules.Condition) float64 {
	near := 1.0
	for i := range conditions {
		c := &conditions[i]
		switch v := m.Of(c.Metric); {
		case c.Holds(v):
		case c.Op == rules.Greater || c.Op == rules.GreaterEqual || c.Op == rules.Equal && v < c.Number:
			near = min(near, v/(c.Number+1))
		default:
			near = min(near, c.Number/(v+1))
		}
	}
	return near
}

// group is one group of a rule that is worth remembering: its condition holds or
// it fires, or its growth is counted, or an alert about it goes on.
type group struct {
	Measured
	holding  sock.Instant // since when its condition has held; never: it does not
	firing   sock.Instant // since when it fires; never: it does not
	ended    sock.Instant // when it last ceased to fire; never: it fires, or never did
	alarms   []alarm      // that were begun about it
	peak     int          // the highest count since it fires
	examples []Example    // of its sockets, by the last look that had enough of them
	growing  *growth
	busy     sock.Instant // when it last had a socket
	known    sock.Instant // when it was last measured, in an earlier run perhaps

	// doubted: it fired when an earlier run ended, too long ago for anything to be
	// done to its sockets before its condition was shown to hold as for a new one.
	doubted bool
	again   sock.Instant // since when that has been shown; never: it has not
}

func newGroup() *group { return &group{holding: never, firing: never, ended: never, again: never} }

func (g *group) phase() Phase {
	switch {
	case g.firing != never:
		return Firing
	case g.holding != never:
		return Pending
	default:
		return Quiet
	}
}

// growth counts in a ring how many sockets were seen for the first time. Of its
// oldest slot counts only the part that lies within growthOver: were it dropped as a
// whole, what grows at an even pace would seem to slow down every growthSlot.
type growth struct {
	fresh   [growthOver/growthSlot + 1]float32
	at      sock.Instant // of the last sample
	blindly sock.Instant // nobody watched from then
	blind   sock.Instant // until then
}

// leastCounted is how long must have been watched for what was counted to be
// spread over no more than that.
const leastCounted = time.Minute

// miss notes that nobody watched since the last sample: what began then is not
// known, and is not none.
func (g *growth) miss(now sock.Instant) { g.blindly, g.blind, g.at = g.at, now, now }

// add takes in how many came since the last sample, and returns how many that
// makes a minute.
func (g *growth) add(fresh uint32, now sock.Instant) float64 {
	n := int64(len(g.fresh))
	first, last := int64(g.at)/int64(growthSlot), int64(now)/int64(growthSlot)
	for s := max(first+1, last-n+1); s <= last; s++ {
		g.fresh[s%n] = 0
	}
	// They came at any time since the sample before.
	for s := max(first, last-n+1); s <= last && fresh > 0; s++ {
		begin, end := sock.Instant(s*int64(growthSlot)), sock.Instant((s+1)*int64(growthSlot))
		part := float64(1)
		if now > g.at {
			part = float64(min(end, now).Sub(max(begin, g.at))) / float64(now.Sub(g.at))
		}
		g.fresh[s%n] += float32(part * float64(fresh))
	}
	g.at = now
	sum := float64(0)
	for _, f := range g.fresh {
		sum += float64(f)
	}
	into := now.Sub(sock.Instant(last * int64(growthSlot)))
	sum -= float64(g.fresh[(last+1)%n]) * float64(into) / float64(growthSlot)
	unknown := g.blind.Sub(max(g.blindly, now.Add(-growthOver)))
	return sum / max(leastCounted, growthOver-max(0, unknown)).Minutes()
}

// grown is the growth of a group of which so many sockets were seen for the first
// time in the growthOver before the instant.
func grown(fresh uint64, before sock.Instant) *growth {
	g := &growth{at: max(0, before.Add(-growthOver))}
	g.add(uint32(min(fresh, math.MaxUint32)), before)
	return g
}

// sample takes in what one whole look, or the counters, say of the group: that
// was so at an instant between sent and got. The group changes its phase by that
// alone: a look that failed neither counts nor resets. Counting from the got of
// one sample to the sent of another, it never fires early, nor by less than two.
func (g *group) sample(r *rules.Rule, m Measured, sent, got sock.Instant) {
	g.Measured, g.known = m, got
	if m.Count > 0 {
		g.busy = got
	}
	// A group by properties is there as long as a socket has them.
	vanished := len(r.GroupBy) > 0 && m.nothing()
	holds := m.all(r.When) && !vanished
	if g.firing != never {
		g.reassure(r, holds, sent, got)
		g.peak = max(g.peak, m.Count)
		over := !holds
		if len(r.Until) > 0 {
			over = m.all(r.Until)
		}
		if over {
			g.firing, g.holding, g.ended = never, never, got
		}
		return
	}
	if !holds {
		g.holding = never
		return
	}
	if g.holding == never {
		g.holding = got
	}
	if r.For == 0 || sent.Sub(g.holding) >= r.For {
		g.firing, g.ended, g.doubted, g.peak = got, never, false, m.Count
	}
}

// reassure ends the doubt whether a group of an earlier run fires.
func (g *group) reassure(r *rules.Rule, holds bool, sent, got sock.Instant) {
	switch {
	case !g.doubted:
	case !holds:
		g.again = never
	case g.again == never && r.For > 0:
		g.again = got
	case r.For == 0 || sent.Sub(g.again) >= r.For:
		g.doubted = false
	}
}

// due is when the group fires if its condition still holds then.
func (g *group) due(r *rules.Rule) sock.Instant {
	if g.phase() != Pending {
		return never
	}
	return g.holding.Add(r.For)
}

// ruleGroups are the groups of one rule. A rule about single sockets that alerts
// has one, which fires while any socket is due.
type ruleGroups struct {
	groups  map[groupID]*group
	looked  sock.Instant  // when the last whole look was in, or the counters; 0: there was none in this run
	tallied int           // groups that it found
	paths   int           // and paths, for the usage of ports
	seen    []*cookieSet  // at the last two, for growth: one may miss what is there
	full    spell         // of looks that found more than there is room for
	in      map[Phase]int // how many groups are pending, and fire
	nearest []nearGroup   // of those that were quiet at the last sample: at most mostShown

	sockets int // of a rule about single sockets: how many are due and match

	fresh  bool         // there is something new to alert about
	next   sock.Instant // when an alarm begins or ends by time alone
	others []alarm      // about the groups that are not told one by one

	firing bool              // a group does
	began  sock.Instant      // when the first began to; 0: in an earlier run
	before map[Result]uint64 // what had been done then
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
type Turn struct {
	Rule   string
	DryRun bool
	Takes  bool              // the rule takes sockets away
	When   []rules.Condition // the rule's; empty: it is about single sockets
	Group  []Label
	Measured
	From, To Phase
	Since    sock.Instant // the condition has held since, or did
}

// take takes in what a whole look counted for a rule.
func (e *Engine) take(rule int, t *groupTally, sent, got sock.Instant) {
	rg, r := e.groups[rule], &e.program.rules[rule]
	rg.nearest = rg.nearest[:0]
	turns := 0
	since := rg.looked // what is new came after
	if r.onlyTimeWait() {
		since = max(since, got.Add(-timeWaitLen))
	}
	t.groups.all(func(number uint32, key []byte, c *tally) {
		m := Measured{Count: int(c.count), BacklogUsage: float64(c.backlog)}
		if c.count > 0 && c.oldest != never {
			m.Oldest = got.Sub(c.oldest)
		}
		if t.paths != nil {
			m.PortUsage = 100 * float64(c.ports) / float64(t.paths.all)
		}
		g, known := rg.groups[groupID(key)]
		if !known {
			if near := m.nearness(r.When); c.fresh == 0 && near < 1 {
				rg.approach(key, m, near) // and nothing else: of 100,000 groups, most are like that
				return
			}
			g = newGroup()
		}
		if t.now != nil {
			switch {
			case g.growing == nil && rg.looked == 0:
				g.growing = &growth{at: got}
			case g.growing == nil:
				g.growing = &growth{at: since}
			case rg.looked == 0:
				g.growing.miss(got)
			default:
				g.growing.add(0, max(since, g.growing.at))
			}
			m.Growth = g.growing.add(c.fresh, got)
		}
		if some := t.examples[number]; len(some) > 0 {
			g.examples = some
		}
		if e.sample(rule, groupID(key), g, known, m, sent, got, turns < mostTurns) {
			turns++
		}
	})
	rg.tallied = t.groups.n
	if t.paths != nil {
		rg.paths = t.paths.used.n
	}
	if t.now != nil {
		rg.seen = append([]*cookieSet{t.now}, rg.seen[:min(1, len(rg.seen))]...)
	}
	if turns > mostTurns {
		e.note(slog.LevelWarn, "more groups changed at once than are told one by one", slog.String("rule", r.Name), slog.Int("groups", turns-mostTurns))
	}
	if t.omitted > 0 {
		rg.shed()
	}
	if began, _ := rg.full.note(t.omitted > 0); began {
		e.note(slog.LevelWarn, "the rule has more groups than are kept count of: those beyond are left out, and those that have been quiet the longest are forgotten; group by fewer keys, or match less",
			slog.String("rule", r.Name), slog.Int("groups", maxGroups), slog.Int("sockets_left_out", t.omitted))
	}
	rg.fresh = true
}

// sample has one group take in a sample, and reports whether that changed its
// phase; known: it is remembered, said: the change is to be told.
func (e *Engine) sample(rule int, id groupID, g *group, known bool, m Measured, sent, got sock.Instant, said bool) (turned bool) {
	rg, r := e.groups[rule], &e.program.rules[rule]
	from, since := g.phase(), g.holding
	g.sample(&r.Rule, m, sent, got)
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
	e.began(rule, got)
	e.turned = true
	if said {
		e.turn(r, id, g, from, since)
	}
	if to == Firing && slices.ContainsFunc(r.Then, func(a rules.Action) bool { return a.Kind == rules.Log }) {
		e.tally.results[outcome{r.Name, rules.Log, Done}]++
	}
	if to == Firing && r.destroys {
		next := &e.sight.next[r.class]
		*next = min(*next, e.sight.soonest(r.class, got)) // for its sockets
	}
	return true
}

// turn tells that a group has changed its phase.
func (e *Engine) turn(r *rule, id groupID, g *group, from Phase, since sock.Instant) {
	e.plan.Turns = append(e.plan.Turns, Turn{
		Rule: r.Name, DryRun: r.DryRun, Takes: r.destroys, When: r.When, Group: id.labels(r.GroupBy), Measured: g.Measured, From: from, To: g.phase(), Since: since,
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
func (rg *ruleGroups) atMost(r *rule, n int) {
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

// shed forgets the quiet groups that have had no socket for the longest, to make
// room for new ones.
func (rg *ruleGroups) shed() {
	over := len(rg.groups) - maxGroups*9/10
	if over <= 0 {
		return
	}
	quiet := func(g *group) bool { return g.phase() == Quiet && len(g.alarms) == 0 }
	var busy []sock.Instant // instants alone: sorting so many groups would hold up the loop
	for _, g := range rg.groups {
		if quiet(g) {
			busy = append(busy, g.busy)
		}
	}
	if len(busy) == 0 {
		return
	}
	slices.Sort(busy)
	over = min(over, len(busy))
	last := busy[over-1]
	before, _ := slices.BinarySearch(busy, last)
	ties := over - before // of those that were busy at the last of these instants
	for id, g := range rg.groups {
		if !quiet(g) || g.busy > last || g.busy == last && ties == 0 {
			continue
		}
		if g.busy == last {
			ties--
		}
		delete(rg.groups, id)
	}
}

// nextFiring is when the first pending group may fire.
func (rg *ruleGroups) nextFiring(r *rule) sock.Instant {
	first := never
	if rg.in[Pending] > 0 {
		for _, g := range rg.groups {
			first = min(first, g.due(&r.Rule))
		}
	}
	return first
}

// sampleTotals takes in what the counters tell of the rules that need nothing else.
func (e *Engine) sampleTotals(in Counted, now sock.Instant) {
	s := &e.sight
	if e.program.sample == 0 {
		return
	}
	known := in.OK && in.HasTimeWait
	if began, _ := s.deaf.note(!known); began {
		e.note(slog.LevelWarn, "the counter of timewait sockets cannot be read: nothing is concluded about rules that need only that")
	}
	s.sample = now.Add(e.program.sample)
	for i := range e.program.rules {
		r := &e.program.rules[i]
		if !r.Enabled || !r.total {
			continue
		}
		rg := e.groups[i]
		if known {
			g, remembered := rg.groups[""]
			if !remembered {
				g = newGroup()
			}
			rg.nearest, rg.looked = rg.nearest[:0], now
			e.sample(i, "", g, remembered, Measured{Count: int(in.TimeWait)}, s.asked, now, true)
			rg.fresh = true
		}
		if due := rg.nextFiring(r); known || due > now {
			s.sample = min(s.sample, max(now, due))
		}
	}
}

// fired is since when the group of a socket fires, as far as its sockets may be
// acted on for that; never: it does not. What nobody in this run has seen, or not
// for long, is not enough to act on.
func (e *Engine) fired(rule int, s *sock.Socket, now sock.Instant) sock.Instant {
	rg := e.groups[rule]
	if rg.looked == 0 || now.Sub(rg.looked) > max(outage, 2*e.sight.gap[e.program.rules[rule].class]) {
		return never
	}
	if g := e.groupOf(rule, s); g != nil && !g.doubted {
		return g.firing
	}
	return never
}

// groupOf is what is remembered of the group of a socket; nil: nothing.
func (e *Engine) groupOf(rule int, s *sock.Socket) *group {
	var buf [longestID]byte
	return e.groups[rule].groups[groupID(appendGroup(buf[:0], e.program.rules[rule].GroupBy, s))]
}

const (
	// mostKept bounds what is kept on disk of the groups of all rules.
	mostKept = 10_000
	// keptEvery is how often that is said to be still so.
	keptEvery = 30 * time.Second
	// outage is how long nobody may have looked for a condition to have held all the
	// same, as if looks had failed; and for how long what fires is acted on without a
	// look that shows it.
	outage = 2 * time.Minute
)

// keep has what must outlive a restart kept: whatever has changed, and now and
// then what has not.
func (e *Engine) keep(now sock.Instant) {
	if !e.turned && now < e.keptAt || e.standIn && len(e.revived) > 0 {
		return
	}
	// Those of which people were told come first: a restart tells the first ones one
	// by one. Then come those that fire, and last what is of use for a while only.
	told := []sock.Group{} // nil would be no change
	var firing, pending, ended []sock.Group
	for i := range e.program.rules {
		if e.groups[i] == nil {
			continue
		}
		r := &e.program.rules[i]
		for id, g := range e.groups[i].groups {
			list := &ended
			switch phase := g.phase(); {
			case slices.ContainsFunc(g.alarms, func(a alarm) bool { return a.told }):
				list = &told
			case phase == Firing:
				list = &firing
			case phase == Pending:
				list = &pending
			case len(g.alarms) == 0:
				continue
			}
			if len(*list) < mostKept {
				*list = append(*list, g.kept(r, id))
			}
		}
	}
	kept := append(append(append(told, firing...), pending...), ended...)
	kept = kept[:min(len(kept), mostKept)]
	e.turned, e.keptAt = false, never
	if len(kept) > 0 {
		e.keptAt = now.Add(keptEvery)
	}
	e.plan.Groups = kept
}

// kept is what is kept of a group.
func (g *group) kept(r *rule, id groupID) sock.Group {
	k := sock.Group{Rule: sock.RuleSum(r.Sum), Key: id.key(), Known: g.known}
	switch {
	case g.firing != never:
		k.Holding, k.Firing = g.holding, g.firing
	case len(g.alarms) > 0: // which counts for more than that it may be pending again
		a := &g.alarms[0]
		k.Holding, k.Firing, k.Ended = a.since, a.started.Add(-r.Then[a.action].After), g.ended
	default:
		k.Holding = g.holding
	}
	k.Fresh = uint64(math.Round(g.Growth * growthOver.Minutes()))
	return k
}

// revive takes over what an earlier run knew of a group.
func (rg *ruleGroups) revive(k *sock.Group, r *rule, now sock.Instant) {
	if max(k.Holding, k.Firing, k.Ended, k.Known) > now {
		return // from a future that never was
	}
	g := newGroup()
	g.known = k.Known
	switch {
	case k.Ended != 0:
		g.ended = k.Ended
	case k.Firing != 0:
		g.holding, g.firing, g.doubted = k.Holding, k.Firing, now.Sub(k.Known) > outage
	case now.Sub(k.Known) <= outage:
		g.holding = k.Holding
	default:
		return
	}
	if k.Fresh > 0 && r.measures(rules.Growth) {
		g.growing = grown(k.Fresh, k.Known)
		g.Growth = float64(k.Fresh) / growthOver.Minutes() // to be kept again before the first look
	}
	for j := range r.Then {
		a := &r.Then[j]
		if a.Kind != rules.Alert || k.Firing == 0 || k.Ended != 0 && k.Ended.Add(a.Notice.KeepFiringFor) <= k.Known {
			continue
		}
		if k.Firing.Add(a.After) <= min(g.ended, k.Known) {
			g.alarms = append(g.alarms, alarm{action: j, since: k.Holding, started: k.Firing.Add(a.After), told: len(rg.groups) < mostAlarms})
		}
	}
	if id := groupOfKey(&k.Key, r.GroupBy); rg.groups[id] == nil {
		rg.add(id, g)
	}
	rg.firing = rg.in[Firing] > 0
	rg.next = now // an alert that goes on may have to end before the first look
}
