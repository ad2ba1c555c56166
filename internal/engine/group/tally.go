package group

import (
	"math"
	"slices"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/subject"
	hashed "github.com/sockdog/sockdog/internal/engine/table"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// tally is what one scan counts of a group.
type tally struct {
	oldest  sock.Instant // when the oldest that matches entered its state, at the latest
	count   uint32       // sockets that match
	fresh   uint32       // of those, not there at the scan before
	backlog float32      // the fullest accept queue, in percent of its limit
	fires   bool         // the group does, and its rule acts on sockets
	first   bool         // it has examples for certain: people are told of it, or soon may be
}

// knownGroup is a group that is sampled also where no socket of it is left.
type knownGroup struct {
	key          Key
	fires, first bool // as in tally
}

// Tally is what one scan counts for one rule about groups.
type Tally struct {
	rule    *match.Rule
	key     []byte // of the last socket
	known   []knownGroup
	fires   bool // one of them does
	groups  table[tally]
	omitted int // sockets of groups, or paths, beyond MaxGroups

	// The socket whose group was asked for last, which may be asked for again.
	cookie uint64
	number uint32

	// examples are of what an alert may be about, by the group's number: nil where
	// the rule has no alert. Of the groups that have none for certain the largest do:
	// those of fewer sockets than worth are far from an alert, and none that has any
	// has fewer than least.
	examples map[uint32][]Example
	worth    int
	rivals   int
	least    uint32

	// Only where a condition asks for it:
	before []*cookieSet       // of the scans before; empty: there was none
	now    *cookieSet         // of this one
	paths  []uint32           // the group of a path, by the path's number; 0: none
	fds    map[uint32]float64 // the highest usage of descriptors, by the group's number
}

// Tally counts from zero for what is known of the rule's groups. The loop makes it,
// and leaves what takes long to Begin.
func (rg *Set) Tally() *Tally {
	r := rg.rule
	t := &Tally{rule: r, groups: newTable[tally](r.By.Width(), MaxGroups, rg.tallied), before: rg.seen}
	if n := len(rg.groups); n > 0 {
		t.known = make([]knownGroup, 0, n)
	}
	sent := 0
	for key, g := range rg.groups {
		k := knownGroup{key: key, fires: r.Touches && g.Firing != sock.Never, first: r.Alerts && g.Sent()}
		if k.first {
			sent++
		}
		t.known, t.fires = append(t.known, k), t.fires || k.fires
	}
	for i := 0; r.Alerts && i < len(t.known) && sent < MaxAlerts; i++ {
		if k := &t.known[i]; !k.first && rg.groups[k.key].Phase() != Quiet {
			k.first = true
			sent++
		}
	}
	if r.Alerts {
		t.examples, t.worth = make(map[uint32][]Example), almost(r)
	}
	if r.Measures(rules.Growth) {
		expect := 0
		if len(rg.seen) > 0 {
			expect = rg.seen[0].Len()
		}
		t.now = hashed.NewCookies[struct{}](expect)
	}
	return t
}

// Begin makes room for the groups that are known, before others may take it.
func (t *Tally) Begin() {
	for _, k := range t.known {
		_, c := t.groups.at([]byte(k.key))
		c.fires, c.first = k.fires, k.first
	}
	if len(t.rule.GroupBy) == 0 {
		t.groups.at(nil) // it is there, sockets or not
	}
}

// Fires reports whether the socket's group does, and its rule acts on sockets.
func (t *Tally) Fires(s subject.Subject) bool {
	if !t.fires {
		return false
	}
	if t.rule.ByHolders && !s.HoldersKnown() {
		return true // it may
	}
	t.key = t.rule.By.Append(t.key[:0], s)
	c := t.groups.get(t.key)
	return c != nil && c.fires
}

// at is the tally of the socket's group; nil: there are too many groups.
func (t *Tally) at(s subject.Subject) (number uint32, c *tally) {
	if s.ID.Cookie == t.cookie && t.number > 0 {
		return t.number, t.groups.value(t.number)
	}
	t.key = t.rule.By.Append(t.key[:0], s)
	number, c = t.groups.at(t.key)
	t.cookie, t.number = s.ID.Cookie, number
	if c == nil {
		t.omitted++
	}
	return number, c
}

// Add counts a socket that matches, and has been in its state since entered.
func (t *Tally) Add(s subject.Subject, entered sock.Instant) {
	number, c := t.at(s)
	if c == nil {
		return
	}
	if c.count == 0 || entered < c.oldest {
		c.oldest = entered
	}
	c.count++
	if t.examples != nil && (c.first || int(c.count) > t.worth) {
		t.keep(number, c, s.Socket)
	}
	if t.now != nil && !t.now.Has(s.ID.Cookie) {
		t.now.Put(s.ID.Cookie, struct{}{})
		c.fresh++
	}
	if s.State == ssfilter.Listening {
		// One of listen(fd, 0) takes one connection (sk_acceptq_is_full).
		c.backlog = max(c.backlog, 100*float32(s.RQueue)/float32(max(1, s.WQueue)))
	}
}

// UseDescriptors notes how much of its descriptors a process uses that holds the socket,
// which is counted.
func (t *Tally) UseDescriptors(s subject.Subject, percent float64) {
	number, c := t.at(s)
	if c == nil {
		return
	}
	if t.fds == nil {
		t.fds = make(map[uint32]float64)
	}
	t.fds[number] = max(t.fds[number], percent)
}

// SeenBefore notes of a socket which may match, now or later, that it is not seen for
// the first time: it was counted before, or there when the first scan was made.
func (t *Tally) SeenBefore(cookie uint64) {
	if t.now == nil {
		return
	}
	if len(t.before) == 0 || slices.ContainsFunc(t.before, func(c *cookieSet) bool { return c.Has(cookie) }) {
		t.now.Put(cookie, struct{}{})
	}
}

// keep keeps a socket of a group as an example, of the largest groups: where there
// are too many, the smallest gives way.
func (t *Tally) keep(group uint32, c *tally, s *sock.Socket) {
	some, known := t.examples[group]
	switch {
	case len(some) == MaxExamples:
		return
	case known || c.first:
	case t.rivals < MaxAlerts:
		t.rivals++
	case !t.supersede(c.count):
		return
	}
	if !known {
		some = make([]Example, 0, 8)
	}
	t.examples[group] = append(some, Example{Peer: s.Zoned(s.Dst), Inode: s.Inode, Key: s.ID.Key()})
}

// supersede takes the examples of the smallest group that has any from it, if that
// is smaller.
func (t *Tally) supersede(count uint32) bool {
	if count <= t.least {
		return false
	}
	smallest := uint32(0)
	t.least = math.MaxUint32
	for group := range t.examples {
		if c := t.groups.value(group); !c.first && c.count < t.least {
			smallest, t.least = group, c.count
		}
	}
	if count <= t.least {
		return false
	}
	delete(t.examples, smallest)
	return true
}

// almost is how many sockets are almost as many as the rule fires at.
func almost(r *match.Rule) int {
	for _, c := range r.When {
		if c.Metric == rules.Count && (c.Op == rules.Greater || c.Op == rules.GreaterEqual) {
			return max(0, int(c.Number)-2*MaxExamples)
		}
	}
	return 0
}

// UsePort notes that a path, as Ports.Use returned it, is one of the socket's group.
func (t *Tally) UsePort(path uint32, omitted bool, s subject.Subject) {
	switch {
	case path == 0 && !omitted || t.hasPath(path) || !t.rule.UsesPort(s.Socket):
	case omitted:
		t.omitted++
	default:
		t.usePath(path, s)
	}
}

// usePath notes that a path is one of the socket's group.
func (t *Tally) usePath(path uint32, s subject.Subject) {
	number, c := t.at(s)
	if c == nil {
		return
	}
	for len(t.paths) <= int(path) {
		t.paths = append(t.paths, 0)
	}
	t.paths[path] = number
}

// hasPath reports whether a path is known to be one of a group.
func (t *Tally) hasPath(path uint32) bool { return int(path) < len(t.paths) && t.paths[path] != 0 }

// takePorts takes in what the scan has counted of local ports, and returns the share that
// is used up on the fullest path of each group, by its number.
func (t *Tally) takePorts(u *Ports) []float64 {
	fullest := make([]float64, t.groups.n+1)
	if len(t.rule.GroupBy) == 0 {
		number, _ := t.groups.at(nil)
		fullest[number] = u.beside() // of a path without connections no more is used up
	}
	for path, group := range t.paths {
		if group != 0 {
			fullest[group] = max(fullest[group], u.on(uint32(path)))
		}
	}
	return fullest
}
