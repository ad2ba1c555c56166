package engine

import (
	"container/heap"
	"hash/maphash"
	"time"

	"github.com/sockdog/sockdog/internal/engine/group"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/engine/table"
	"github.com/sockdog/sockdog/internal/engine/track"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Scan is one reading of the socket table for some of the rules. The thread that
// reads hands it every socket and gives it back, whole, in ScanDone.
type Scan struct {
	Query     sock.Query
	program   *match.Program
	of        match.ClassSet
	lookahead sock.Instant // what falls due later is left to a later scan
	known     known
	far       *tracks      // which it compares itself; nil: there are none
	seed      maphash.Seed // of fingerprints
	// bounded says that of the others no more than room may be brought: the oldest.
	// Beyond that there is a reserve for sockets in accept queues.
	bounded       bool
	room, reserve int
	waited        map[sock.Key]wait // see waits
	survey        bool              // every group may fire, and nothing is counted
	precision     time.Duration
	sent          sock.Instant
	live          *liveCount   // nil: no rule asks
	ports         *group.Ports // nil: no rule asks, or they are not known
	holders       *holderCache // nil: no rule asks
	// held is who holds tracked sockets, where no rule asks; nil: of none it is known.
	held *table.Cookies[*subject.Holders]
	// What was found before renew is to be looked for again, before renewShown where nothing
	// is decided by it, and what was before believed is not known any more.
	renew, renewShown, believed sock.Instant
	counts                      []ruleCount // of each rule; what it counts for each rule
}

// ScanResult is what a whole scan found.
type ScanResult struct {
	scan    *Scan
	hits    hits
	far     farShown
	bounded byWay // those of hits and fresh far ones that are bounded in number
	waiting int   // those that the reserve for accept queues took
	left    int   // had no room
	starved int   // of those: that a rule would kill
	// waits are those that are not brought, and that were seen in an accept queue, by this
	// scan or before: no time counts before they are accepted.
	waits map[sock.Key]wait
	// later is when the first of those falls due that were left to a later scan;
	// nextMature is when the first comes to count in a group by its age alone.
	later, nextMature sock.Instant
	askedHolders

	states [16]uint32 // sockets in each state
	last   [16]uint64 // cookies
	taken  int
}

// ruleCount is what a scan counts for one rule.
type ruleCount struct {
	stats  ruleStats
	held   processCount // of those that match in full
	groups *group.Tally // nil: it has none, or they cannot be measured
	// Sockets were not counted because nobody has looked who holds them, or nobody can tell;
	// dropped: nor will they be.
	postponed, unseen, dropped bool
}

// ruleStats is what a scan shows of one rule.
type ruleStats struct {
	sockets, candidates uint32       // that match in full, and in all but their age
	soon                uint32       // of the latter: that come to match in full before the lookahead ends
	oldest              sock.Instant // when the oldest of those entered its state, at the latest; never: there is none
	next                sock.Instant // when the first of those comes to match in full; never: none will
	netns               netnsCount   // where those are that match in full, if several are watched
}

// noStats is what is shown of a rule before the first scan.
var noStats = ruleStats{oldest: never, next: never}

// Part tells scans for some of the rules from scans for others.
func (l *Scan) Part() int { return int(l.of) }

// SeenStates is how many sockets a scan has shown in each of its states.
type SeenStates struct {
	Part   int // as Scan.Part has it: a set of bits
	States map[ssfilter.State]int
	All    bool // it asked for every socket in them
}

// Seen returns how many sockets the scan has shown by state.
func (f *ScanResult) Seen() SeenStates {
	l := f.scan
	seen := SeenStates{Part: l.Part(), States: make(map[ssfilter.State]int), All: l.Query.Where == nil}
	for _, state := range l.Query.States.States() {
		seen.States[state] = int(f.states[int(state)%len(f.states)])
	}
	return seen
}

// Program is what the scan was planned by.
func (l *Scan) Program() *match.Program { return l.program }

// Rules are those that it is for.
func (l *Scan) Rules() (all []*match.Rule) {
	for i := range l.program.Rules {
		if r := &l.program.Rules[i]; l.of.Has(r.Class) {
			all = append(all, r)
		}
	}
	return all
}

// Begin starts a scan; sent is when the request went out.
func (l *Scan) Begin(sent sock.Instant) *ScanResult {
	l.sent = sent
	if l.counts == nil {
		l.counts = make([]ruleCount, len(l.program.Rules))
	}
	for i := range l.counts {
		c := &l.counts[i]
		c.stats, c.held, c.postponed, c.unseen, c.dropped = noStats, processCount{}, false, false, false
		if c.groups != nil {
			c.groups.Begin()
		}
	}
	return &ScanResult{scan: l, later: never, nextMature: never, far: farShown{fresh: newTracks()}}
}

// Take takes in one socket of the answer. A socket whose age the kernel keeps,
// and which falls due only beyond the lookahead, is left to a later scan: so
// memory follows what is due, not what there is. What is only counted leaves
// nothing behind but the count.
//
// Got may lie before the scan was begun, where the source shows an answer that it was
// given then: the last one about the socket that the engine was given before the scan
// was begun, or a later one.
func (f *ScanResult) Take(s *sock.Socket, got sock.Instant) {
	if f.again(s.ID.Cookie) {
		return
	}
	l := f.scan
	f.states[int(s.State)%len(f.states)]++
	t, sub := track.TimesOf(s, f.sentBy(got), got, l.precision), l.subject(s)
	l.live.add(s, watchedOf(sub.Holders))
	if l.far != nil && l.far.n > 0 {
		if far := l.far.get(s.ID.Key()); far != nil {
			f.takeFar(far, sub, t, got)
			return
		}
	}
	due, of, ages := f.dueBy(sub, &t)
	if l.ports != nil {
		f.usePort(s)
	}
	if of&l.of == 0 {
		f.keepWait(s, got, false)
		return
	}
	at, print, known := l.known.get(s.ID.Cookie)
	watched := known || !track.Lasting(s)
	switch {
	case due == never && !ages, due > l.lookahead && !watched:
		if due != never {
			f.later = min(f.later, due)
		}
		f.keepWait(s, got, false)
	case due <= l.lookahead && print > knownNow && print == track.Fingerprint(l.seed, s):
		l.known.shown.Set(at)
	case !known && of&^l.of == 0 && due > l.lookahead && f.beginFar(s, t, got, due, of):
		f.later = min(f.later, due)
	default:
		f.bring(f.hits.pack(s, got, known), due, known && print != knownBefore)
		if known {
			return // to be counted by what is known of it
		}
	}
	f.count(sub, &t, got)
}

// sentBy is when what was got then had been asked for, at the latest.
func (f *ScanResult) sentBy(got sock.Instant) sock.Instant { return min(f.scan.sent, got) }

// dueBy is when a rule first wants something of a socket, as far as time goes, and the
// classes of the rules that it may match; ages: a rule about groups asks for its age.
func (f *ScanResult) dueBy(s subject.Subject, t *track.Times) (due sock.Instant, of match.ClassSet, ages bool) {
	l := f.scan
	due = never
	asks := false
	for r, m := range l.program.Candidates(s) {
		of |= 1 << r.Class
		if !l.of.Has(r.Class) {
			continue
		}
		asks = asks || r.NeedsHolders
		if r.Grouped && !l.fires(r, s) {
			ages = ages || match.IsTimed(m)
			continue
		}
		due = min(due, match.EarlyDueAt(m, t))
		ages = ages || l.survey // what keeps a socket is told, even if time alone never ends that
	}
	if l.holders != nil {
		f.askHolders(s, t, asks)
	}
	return due, of, ages
}

// bring adds a hit. Where there is no room for one more, one that no rule would kill
// as it is now, and else the youngest, is left to a later scan, and counted by what
// the kernel knows of it.
func (f *ScanResult) bring(h hit, due sock.Instant, tracked bool) {
	s := f.hits.socket(&h)
	switch {
	case !f.scan.bounded || tracked:
		f.hits.Add(h)
		return
	case s.InBacklog() && f.waiting < f.scan.reserve:
		f.hits.Add(h)
		f.waiting++
		return
	}
	p := f.placedFor(&s, due)
	switch {
	case f.hasRoom():
		p.at = int32(f.hits.Add(h))
		heap.Push(&f.bounded, p)
	case len(f.bounded) > 0 && f.bounded[0].givesWayTo(p):
		f.displace(p, h)
	default:
		f.leave(&h, p)
	}
}

// placedFor returns what a socket is to others where room is bounded.
func (f *ScanResult) placedFor(s *sock.Socket, due sock.Instant) placed {
	return placed{due: due, idle: !f.scan.program.WouldKill(f.scan.subject(s))}
}

// hasRoom reports whether there is room for one more socket.
func (f *ScanResult) hasRoom() bool {
	return !f.scan.bounded || len(f.bounded) < f.scan.room
}

// displace adds a hit in the place of the first that gives way, which is left to a later
// scan.
func (f *ScanResult) displace(p placed, h hit) {
	was := f.bounded[0]
	if p.at = was.at; was.at < 0 {
		p.at = int32(f.hits.Add(h))
	}
	f.bounded[0] = p
	heap.Fix(&f.bounded, 0)
	if was.at < 0 {
		f.far.fresh.remove(f.far.fresh.at(uint32(^was.at)))
		f.countLeft(was)
		return
	}
	at := f.hits.At(int(was.at))
	h, *at = *at, h
	f.leave(&h, was)
}

// countLeft counts a socket that is left to a later scan.
func (f *ScanResult) countLeft(p placed) {
	f.left++
	if !p.idle {
		f.starved++
	}
}

// leave leaves a socket without room to a later scan.
func (f *ScanResult) leave(h *hit, p placed) {
	f.countLeft(p)
	s := f.hits.socket(h)
	got := f.hits.got(h)
	f.keepWait(&s, got, true)
	if h.is(hitKnown) {
		t := track.TimesOf(&s, f.sentBy(got), got, f.scan.precision)
		f.count(f.scan.subject(&s), &t, got)
	}
}

// placed is a socket that there was room for.
type placed struct {
	due  sock.Instant
	at   int32 // in hits; below 0: ^at is its number among the fresh far connections
	idle bool  // no rule would kill it, as it is now
}

// givesWayTo reports whether a socket is left to a later scan before q is: the idle ones
// are, and then what falls due later.
func (p placed) givesWayTo(q placed) bool {
	if p.idle != q.idle {
		return p.idle
	}
	return p.due > q.due
}

// byWay is a heap of those, first what gives way to all others.
type byWay []placed

func (q byWay) Len() int           { return len(q) }
func (q byWay) Less(i, j int) bool { return q[i].givesWayTo(q[j]) }
func (q byWay) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *byWay) Push(x any)        { *q = append(*q, x.(placed)) }
func (q *byWay) Pop() any          { panic("none is taken out") }

// usePort counts the socket's local port, if it is one that connect(2) may choose.
func (f *ScanResult) usePort(s *sock.Socket) {
	path, omitted := f.scan.ports.Use(s)
	for _, r := range f.scan.program.MeasurePorts {
		if g := f.scan.counts[r.Position].groups; g != nil {
			g.UsePort(path, omitted, subject.Of(s))
		}
	}
}

// again reports whether the socket is one of the last that were taken. Between
// two chunks of a hash bucket inet_diag_dump_icsk() lets its lock go, and goes on
// at a number: by as many as were put at the head of the bucket meanwhile, it
// comes upon the same sockets again.
func (f *ScanResult) again(cookie uint64) bool {
	for _, c := range f.last {
		if c == cookie {
			return true
		}
	}
	f.last[f.taken%len(f.last)] = cookie
	f.taken++
	return false
}

// fires reports whether the socket may be acted on for a rule about groups.
func (l *Scan) fires(r *match.Rule, s subject.Subject) bool {
	if l.survey {
		return r.Touches
	}
	g := l.counts[r.Position].groups
	return g != nil && g.Fires(s)
}

// count counts a socket for the rules that it matches, by what is known of its
// times. Only who matches for certain counts; protected ones do.
func (f *ScanResult) count(s subject.Subject, t *track.Times, got sock.Instant) {
	l := f.scan
	var last *match.Rule
	excluded, candidate, full := false, false, false
	since := t.Entered.Safe
	if s.State == ssfilter.Listening {
		since = never // of such a socket nothing tells
	}
	for r, m := range l.program.Candidates(s) {
		if !l.of.Has(r.Class) {
			continue
		}
		if r != last {
			last, candidate, full = r, false, false
			excluded = match.Any(r.Exclude, s) != ssfilter.False
		}
		count := &l.counts[r.Position]
		stays, g := match.Lasts(m, s), count.groups
		if g != nil && stays != ssfilter.False {
			g.SeenBefore(s.ID.Cookie)
		}
		if l.holders != nil && f.postpones(r, m, s) {
			continue
		}
		if excluded || full || min(stays, match.AtPresent(m, s)) != ssfilter.True {
			continue
		}
		stats := &count.stats
		if !candidate {
			candidate = true
			stats.candidates++
			stats.oldest = min(stats.oldest, since)
		}
		if due := match.DueAt(m, t); due > got {
			stats.next = min(stats.next, due)
			if due <= l.lookahead {
				stats.soon++
			}
			if r.Grouped {
				f.nextMature = min(f.nextMature, match.EarlyDueAt(m, t))
			}
			continue
		}
		full = true
		stats.sockets++
		count.held.add(l.holdersOf(&s))
		if l.program.Settings.Namespaces == rules.AllNamespaces {
			stats.netns.add(s.Socket)
		}
		if g == nil {
			continue
		}
		g.Add(s, since)
		if r.MeasuresFDs {
			f.countFDs(r, s)
		}
	}
	if l.holders != nil && f.postponed {
		f.postpone(s.Socket, t, got)
	}
}
