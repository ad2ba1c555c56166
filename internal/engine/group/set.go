// Package group keeps count of groups of sockets: how many there are by one scan,
// what is measured of them, and which of them are pending and fire. It knows
// neither what sends alerts nor what acts.
package group

import (
	"cmp"
	"iter"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

const (
	// MaxGroups bounds the groups of a rule. What one scan finds beyond is not
	// counted, and that is said.
	MaxGroups = 100_000
	// MaxAlerts is how many groups of a rule alert one by one.
	MaxAlerts = 100
	// MaxExamples is how many sockets of a group are kept as examples.
	MaxExamples = 64
	// maxShown is how many groups of a rule an overview has.
	maxShown = 20
	// Outage is for how long no scan may have been made for a condition to have held
	// all the same, as if scans had failed; and for how long what fires is acted on
	// without a scan that shows it.
	Outage = 2 * time.Minute
)

// Key is a group's properties, as Append of its rule's Key writes them.
type Key string

// Set is the groups of one rule. A rule about single sockets that alerts has one,
// which fires while any socket is due.
type Set struct {
	rule       *match.Rule
	key        []byte // of the last socket that was asked about
	groups     map[Key]*Group
	phases     map[Phase]int // how many groups are pending, and fire
	scanned    sock.Instant  // when the last whole scan was in, or the counters; 0: there was none in this run
	quietUntil sock.Instant  // until when the counters tell that nothing has come since
	tallied    int           // groups that it found
	paths      int           // and paths, for the usage of ports
	seen       []*cookieSet  // at the last two, for growth: one may miss what is there
	nearest    []nearGroup   // of those that were quiet at the last sample: at most maxShown
}

// nearGroup is a quiet group, and how near it is to firing.
type nearGroup struct {
	key  Key
	near float64
	Measured
}

// NewSet returns the groups of a rule of which nothing is known.
func NewSet(r *match.Rule) *Set {
	return &Set{rule: r, groups: make(map[Key]*Group), phases: make(map[Phase]int)}
}

// Recompiled takes over the rule as a reload has compiled it anew.
func (rg *Set) Recompiled(r *match.Rule) { rg.rule = r }

// Take takes in what a whole scan has counted. What fires is stale where the scan
// before is longer ago than trusted.
func (rg *Set) Take(t *Tally, ports *Ports, sent, got sock.Instant, trusted time.Duration) (c Changes) {
	r := rg.rule
	rg.nearest = rg.nearest[:0]
	stale := rg.scanned != 0 && sent.Sub(rg.scanned) > trusted
	since := max(rg.scanned, rg.quietUntil) // what is new came after
	if r.OnlyTimeWait() {
		since = max(since, got.Add(-sock.TimeWaitLen))
	}
	var fullest []float64
	if ports != nil && r.Measures(rules.PortUsage) {
		fullest = t.takePorts(ports)
		rg.paths = ports.paths.n
	}
	t.groups.all(func(number uint32, key []byte, counted *tally) {
		m := Measured{Count: int(counted.count), BacklogUsage: float64(counted.backlog), FDUsage: t.fds[number]}
		if counted.count > 0 && counted.oldest != sock.Never {
			m.Oldest = got.Sub(counted.oldest)
		}
		if fullest != nil {
			m.PortUsage = fullest[number]
		}
		g, known := rg.groups[Key(key)]
		if !known {
			if counted.fresh == 0 && !m.all(r.When) {
				rg.approach(key, m) // and nothing else: of 100,000 groups, most are like that
				return
			}
			g = newGroup()
		}
		if stale && g.Firing != sock.Never {
			g.stale, g.shownAgain = true, sock.Never
		}
		if t.now != nil {
			m.Growth = rg.grow(g, counted.fresh, since, got)
		}
		if some := t.examples[number]; len(some) > 0 {
			g.Examples = some
		}
		rg.sample(&c, Key(key), g, known, m, sent, got)
	})
	rg.tallied, rg.scanned, c.Omitted = t.groups.n, got, t.omitted
	if t.now != nil {
		rg.seen = append([]*cookieSet{t.now}, rg.seen[:min(1, len(rg.seen))]...)
	}
	if t.omitted > 0 {
		c.Ended = rg.evict(got)
	}
	c.sort()
	return c
}

// grow takes in how many sockets of a group match for the first time, which came
// after since, and returns how many a minute that makes.
func (rg *Set) grow(g *Group, fresh uint32, since, got sock.Instant) float64 {
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

// TakeCount takes in how many sockets the counters tell, of a rule that needs
// nothing else.
func (rg *Set) TakeCount(n int, sent, got sock.Instant) Changes {
	rg.scanned = got
	return rg.takeOne(Measured{Count: n}, sent, got)
}

// TakeEach takes in what the counters tell of each group, of a rule about no sockets. One
// of which they tell nothing is gone.
func (rg *Set) TakeEach(all map[Key]Measured, sent, got sock.Instant) (c Changes) {
	rg.scanned = got
	rg.nearest = rg.nearest[:0]
	for key := range rg.groups {
		if _, told := all[key]; !told {
			all[key] = Measured{}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		g, known := rg.groups[key]
		if !known {
			g = newGroup()
		}
		rg.sample(&c, key, g, known, all[key], sent, got)
	}
	return c
}

// TakeDue takes in how many sockets are due of a rule about single sockets, and the
// oldest and some of them. Its one group fires while there are any.
func (rg *Set) TakeDue(n int, oldest time.Duration, examples []Example, now sock.Instant) Changes {
	c := rg.takeOne(Measured{Count: n, Oldest: oldest}, now, now)
	if n > 0 {
		rg.groups[""].Examples = examples
	}
	return c
}

// takeOne has the only group take in a sample.
func (rg *Set) takeOne(m Measured, sent, got sock.Instant) (c Changes) {
	g, known := rg.groups[""]
	if !known {
		g = newGroup()
	}
	rg.nearest = rg.nearest[:0]
	rg.sample(&c, "", g, known, m, sent, got)
	return c
}

// sample has one group take in a sample; known: it is remembered.
func (rg *Set) sample(c *Changes, key Key, g *Group, known bool, m Measured, sent, got sock.Instant) {
	from, since := g.Phase(), g.Holding
	g.sample(&rg.rule.Rule, m, sent, got)
	to := g.Phase()
	if to != Quiet {
		since = g.Holding
	} else {
		rg.approach([]byte(key), m)
	}
	switch worth := to != Quiet || m.Growth > 0 || len(g.Alerts) > 0 || g.Acts.cools(&rg.rule.Rule, got); {
	case worth && !known:
		rg.groups[key] = g
	case !worth && known:
		delete(rg.groups, key)
	}
	if from != to {
		rg.moved(c, key, g, from, since)
	}
}

// Scanned notes a whole scan, of a rule about single sockets.
func (rg *Set) Scanned(at sock.Instant) { rg.scanned = at }

// NothingCame notes that no socket has come until then since the last scan.
func (rg *Set) NothingCame(until sock.Instant) { rg.quietUntil = until }

// NeverScanned reports whether no scan of this run has counted the groups.
func (rg *Set) NeverScanned() bool { return rg.scanned == 0 }

// Firing returns how many groups fire.
func (rg *Set) Firing() int { return rg.phases[Firing] }

// Pending returns how many groups are about to fire.
func (rg *Set) Pending() int { return rg.phases[Pending] }

// Active reports whether a group is about to fire, or does.
func (rg *Set) Active() bool { return rg.Pending()+rg.Firing() > 0 }

// Paths returns how many paths the last scan found.
func (rg *Set) Paths() int { return rg.paths }

// All yields the groups that are remembered.
func (rg *Set) All() iter.Seq2[Key, *Group] { return maps.All(rg.groups) }

// Labels returns the properties of a group.
func (rg *Set) Labels(key Key) []subject.Label {
	labels, _ := rg.rule.By.Labels(string(key))
	return labels
}

// Of returns what is remembered of the group of a socket; nil: nothing, or it is not known
// which group that is.
func (rg *Set) Of(s subject.Subject) *Group {
	if rg.rule.ByHolders && !s.HoldersKnown() {
		return nil
	}
	rg.key = rg.rule.By.Append(rg.key[:0], s)
	return rg.groups[Key(rg.key)]
}

// FiringSince returns since when the group of a socket fires, as far as its sockets
// may be acted on for that, and Never if it does not or its state is stale: what no
// scan of this run has shown, or none for longer than trusted, is not enough to act on.
func (rg *Set) FiringSince(s subject.Subject, now sock.Instant, trusted time.Duration) (at sock.Instant, stale bool) {
	switch g := rg.Of(s); {
	case g == nil || g.Firing == sock.Never:
		return sock.Never, false
	case g.stale || rg.scanned == 0 || now.Sub(rg.scanned) > trusted:
		return sock.Never, true
	default:
		return g.Firing, false
	}
}

// NextFiring returns when the first pending group may fire.
func (rg *Set) NextFiring() sock.Instant {
	first := sock.Never
	if rg.phases[Pending] > 0 {
		for _, g := range rg.groups {
			first = min(first, g.due(&rg.rule.Rule))
		}
	}
	return first
}

// EndAlert ends an alert about a group, and with it perhaps what there is to
// remember of that.
func (rg *Set) EndAlert(key Key, g *Group, action int) {
	g.Alerts = slices.DeleteFunc(g.Alerts, func(a Alert) bool { return a.Action == action })
	if len(g.Alerts) == 0 && g.Phase() == Quiet && g.Growth == 0 && g.Acts.Last == 0 { // else a sample forgets it
		delete(rg.groups, key)
	}
}

// approach keeps a quiet group in mind for an overview if it is among the
// nearest to firing.
func (rg *Set) approach(key []byte, m Measured) {
	near := rg.near(&m)
	if n := len(rg.nearest); n == maxShown && near <= rg.nearest[n-1].near {
		return
	}
	rg.nearest = KeepLeast(rg.nearest, maxShown, nearGroup{Key(key), near, m}, func(a, b nearGroup) int { return cmp.Compare(b.near, a.near) })
}

// near returns how near a group is to meeting all conditions: 1 where it does.
func (rg *Set) near(m *Measured) float64 {
	near := 1.0
	for _, c := range rg.rule.When {
		near = min(near, Nearness(c, m.Of(c.Metric)))
	}
	return near
}

// AtMost has the overview show of quiet groups no more sockets than there can be.
func (rg *Set) AtMost(n int) {
	for i := range rg.nearest {
		if g := &rg.nearest[i]; g.Count > n {
			g.Count = n
			g.near = rg.near(&g.Measured)
		}
	}
	if n == 0 && len(rg.rule.By) > 0 {
		rg.nearest = rg.nearest[:0] // it is no group any more
	}
	slices.SortFunc(rg.nearest, func(a, b nearGroup) int { return cmp.Compare(b.near, a.near) })
}

// evict makes room for new groups: it forgets the quiet ones that have had no socket
// for the longest, and if those are too few it ends such as fire without any, which
// their until may never do.
func (rg *Set) evict(now sock.Instant) (ended int) {
	const room = MaxGroups * 9 / 10
	for _, m := range rg.longestEmpty(len(rg.groups)-room, func(g *Group) bool { return g.Phase() == Quiet && len(g.Alerts) == 0 }) {
		delete(rg.groups, m.key)
	}
	for _, m := range rg.longestEmpty(len(rg.groups)-room, func(g *Group) bool { return g.Phase() == Firing && g.nothing() }) {
		m.end(now)
		rg.phases[Firing]--
		rg.phases[Quiet]++
		ended++
		if len(m.Alerts) == 0 && m.Acts.Last == 0 { // else it is forgotten with them
			delete(rg.groups, m.key)
		}
	}
	return ended
}

// longestEmpty returns the n groups of a kind that have had no socket for the longest.
func (rg *Set) longestEmpty(n int, of func(*Group) bool) []member {
	if n <= 0 {
		return nil
	}
	var all []member
	for key, g := range rg.groups {
		if of(g) {
			all = append(all, member{key, g})
		}
	}
	slices.SortFunc(all, func(a, b member) int { return cmp.Compare(a.busy, b.busy) })
	return all[:min(n, len(all))]
}

// member is a group and its key.
type member struct {
	key Key
	*Group
}

// Overview is how one group stands.
type Overview struct {
	Group []subject.Label
	Phase Phase
	Since sock.Instant // it has been in its phase since; 0: it is quiet
	Measured
}

// Overview returns how the groups stand that have fired or been pending for the
// longest, and those nearest to it.
func (rg *Set) Overview() (shown []Overview) {
	var active []member // those that fire first, and of each kind those that have held for the longest
	order := func(a, b member) int {
		return cmp.Or(cmp.Compare(a.Phase(), b.Phase()), cmp.Compare(a.Holding, b.Holding))
	}
	if rg.Active() {
		for key, g := range rg.groups {
			if g.Phase() != Quiet {
				active = KeepLeast(active, maxShown, member{key, g}, order)
			}
		}
	}
	for _, m := range active {
		since := m.Holding
		if m.Phase() == Firing {
			since = m.Firing
		}
		shown = append(shown, Overview{Group: rg.Labels(m.key), Phase: m.Phase(), Since: since, Measured: m.Measured})
	}
	for _, n := range rg.nearest[:min(len(rg.nearest), maxShown-len(shown))] {
		shown = append(shown, Overview{Group: rg.Labels(n.key), Phase: Quiet, Measured: n.Measured})
	}
	return shown
}

// KeepLeast puts v in its place in a sorted list of the n least.
func KeepLeast[T any](list []T, n int, v T, compare func(a, b T) int) []T {
	if len(list) == n && compare(v, list[n-1]) >= 0 {
		return list
	}
	at, _ := slices.BinarySearchFunc(list, v, compare)
	list = slices.Insert(list, at, v)
	return list[:min(len(list), n)]
}

// Kept returns what is kept on disk of a group.
func (rg *Set) Kept(key Key, g *Group) sock.Group {
	k := sock.Group{Key: sock.GroupKey(key), GroupFacts: sock.GroupFacts{Rule: sock.RuleSum(rg.rule.Sum), Known: g.known}}
	switch {
	case g.Firing != sock.Never:
		k.Holding, k.Firing = g.Holding, g.Firing
	case len(g.Alerts) > 0: // which counts for more than that it may be pending again
		a := &g.Alerts[0]
		k.Holding, k.Firing, k.Ended = a.Since, a.Started.Add(-rg.rule.Then[a.Action].After), g.Ended
	case g.Holding != sock.Never:
		k.Holding = g.Holding
	}
	if g.Acts.Last != 0 {
		k.Acted, k.ActsFrom = g.Acts.Last, g.Acts.From
		if g.Firing != sock.Never {
			k.ActsDone = g.Acts.Done
		}
	}
	k.Fresh = uint64(math.Round(g.Growth * growthOver.Minutes()))
	return k
}

// Restore takes over what an earlier run knew of a group, and reports whether that
// is of use.
func (rg *Set) Restore(k *sock.Group, now sock.Instant) bool {
	key := Key(k.Key)
	if _, ok := rg.rule.By.Labels(string(key)); !ok || max(k.Holding, k.Firing, k.Ended, k.Known, k.Acted) > now {
		return false // it is no group, or from a future that never was
	}
	g, r := newGroup(), rg.rule
	g.known = k.Known
	switch {
	case k.Ended != 0:
		g.Ended = k.Ended
	case k.Firing != 0:
		g.Holding, g.Firing, g.stale = k.Holding, k.Firing, now.Sub(k.Known) > Outage
	case k.Holding != 0 && now.Sub(k.Known) <= Outage:
		g.Holding = k.Holding
	case k.Acted == 0:
		return false
	}
	g.Acts.restore(r, k)
	if k.Fresh > 0 && r.Measures(rules.Growth) {
		g.growing = grown(k.Fresh, k.Known)
		g.Growth = float64(k.Fresh) / growthOver.Minutes() // to be kept again before the first scan
	}
	for j := range r.Then {
		a := &r.Then[j]
		if a.Kind != rules.Alert || k.Firing == 0 || k.Ended != 0 && k.Ended.Add(a.Alert.KeepFiringFor) <= k.Known {
			continue
		}
		if k.Firing.Add(a.After) <= min(g.Ended, k.Known) {
			g.Alerts = append(g.Alerts, Alert{Action: j, Since: k.Holding, Started: k.Firing.Add(a.After), Sent: len(rg.groups) < MaxAlerts})
		}
	}
	if rg.groups[key] == nil {
		rg.groups[key] = g
		rg.phases[g.Phase()]++
	}
	return true
}
