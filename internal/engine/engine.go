package engine

import (
	"hash/maphash"
	"math"
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/engine/limit"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/schedule"
	"github.com/sockdog/sockdog/internal/engine/spin"
	"github.com/sockdog/sockdog/internal/engine/track"
	"github.com/sockdog/sockdog/internal/engine/walk"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

const (
	// askBatch is how many sockets are asked for at once: enough to make the
	// system calls cheap, few enough that the first answer is fresh when the
	// last has come.
	askBatch = 512
	// actBacklog is how many acts may be under way before no more sockets are
	// asked for: what waits longer would be told by a stale answer.
	actBacklog = 1024
	// MaxLookupBatches is how many plans with questions can be under way at once:
	// while the answers to one are decided on, the kernel answers the next.
	MaxLookupBatches = 2
	// MaxActionBatches is how many plans with acts can be under way at once.
	MaxActionBatches = actBacklog
	// retryAfter is when a question or an act that failed is tried again; for an
	// act, twice as long each time.
	retryAfter  = time.Second
	mostDoubled = 10
	stopRetry   = 50 * time.Millisecond // there is no second left
	// leastWait keeps a socket that is due in no time from being asked for in a loop.
	leastWait = time.Millisecond
)

// never is later than every instant that can come.
const never = sock.Never

// Config is what does not change while the engine runs.
type Config struct {
	Precision time.Duration // how far the kernel's times may be off
	Self      int           // the watchdog's own process
	UID       uint32        // and its user
	// MaxTracks bounds how many sockets are kept in mind, and so the memory that
	// takes; 0: nothing does. It watches the oldest, and the others as room comes.
	MaxTracks int
}

// Engine holds the state, each part with who has it. It is not safe for concurrent use.
type Engine struct {
	config       Config
	capabilities match.Capabilities
	inForce
	budgets
	earlier earlier

	sockets
	lookups   lookups
	acts      acts
	groupActs groupActs
	newFiring bool // a group has begun to fire, whose sockets are to be acted on
	stopping  bool

	schedule schedule.Schedule
	scans    scans
	walks    walk.Schedule
	holders  holders
	reach    reach
	names    names
	killed   killed
	usages   spin.Watcher
	trials   []*canary // under way
	probes   probes
	disk     disk

	plan Plan // being made
}

// inForce are the rules, and what is known of each.
type inForce struct {
	program    *match.Program
	rules      []*ruleState        // in the order of the file
	histories  map[uint64]*history // by rule.id, of rules that are away, too
	fallback   bool                // the rules in force are in the place of others
	ruledAt    sock.Instant
	problemsAt sock.Instant // when to see again what is wrong with them
}

// budgets are the limits of all rules together.
type budgets struct {
	limit, dryLimit limit.Window
	pausedUntil     sock.Instant  // of limit, while that is closed
	summary         limit.Summary // of what they and those of each rule hold back
}

// earlier is what an earlier run knew, until this one has taken it in.
type earlier struct {
	memories map[sock.Key]sock.Memory
	scans    [match.NumClasses]int   // whole ones for each class since there are rules for which to remember
	shares   map[uint64][]sock.Spent // of shares of live connections, by their numbers
	groups   map[uint64][]sock.Group // by the rule's fingerprint, until there are rules
}

// sockets are those that are kept in mind.
type sockets struct {
	tracks   tracks
	far      tracks // apart from those, see farShown
	records  records
	attempts map[sock.Key]*attempt // acts under way, and what failed
	awaiting map[sock.Key]await    // of those that limits let go on, and that wait for something else
	due      queue                 // waiting for an instant
	seed     maphash.Seed          // of fingerprints
}

// lookups are the questions about single sockets.
type lookups struct {
	underWay int           // batches
	answers  int           // in the batch that is being taken in
	failing  bool          // the last one did
	streak   failureStreak // of those that fail
}

// acts count what is being done to sockets.
type acts struct {
	underWay    int
	unconfirmed int // the kernel has done them
}

// New returns an engine without rules: it does nothing until it is RulesChanged.
func New(config Config) *Engine {
	e := &Engine{
		config:  config,
		inForce: inForce{program: match.Compile(&rules.Set{}), histories: make(map[uint64]*history), problemsAt: never},
		budgets: budgets{summary: limit.NewSummary(), pausedUntil: never},
		sockets: sockets{
			tracks: newTracks(), far: newTracks(), records: newRecords(), attempts: make(map[sock.Key]*attempt), awaiting: make(map[sock.Key]await), seed: maphash.MakeSeed(),
		},
		schedule: schedule.New(),
		scans:    newScans(),
		walks:    walk.New(),
		holders:  newHolders(),
		names:    newNames(),
		usages:   spin.New(),
		disk:     disk{groupsAt: never},
	}
	e.due = queue{of: &e.tracks, kind: dueQueue}
	return e
}

// Step takes in what happened and returns what is to be done.
func (e *Engine) Step(now sock.Instant, in Input) Plan {
	e.plan = Plan{}
	e.endPause(now)
	if in != nil {
		in.apply(e, now)
	}
	if e.stopping {
		e.finish(now)
		return e.plan
	}
	e.judgeCanaries(now)
	e.nearBesideScan(now)
	e.release(now)
	e.ask(now)
	e.plan.Sample = e.usages.Due(now)
	e.plan.Probe = e.probes.begin()
	before := e.plan.Alerts // of the rules that were in force before, whose receivers they are for
	e.plan.Alerts = nil
	e.updateAlerts(now)
	e.plan.Alerts = e.names.take(e.plan.Alerts, func(w walk.Want) { e.walks.Want(w, never) }, now)
	if len(before) > 0 {
		e.plan.Alerts = append(before, e.plan.Alerts...)
	}
	e.alertOfRules(now)
	e.undoOver()
	e.actOnGroups(now) // which may want a scan, and takes from the limit of all
	e.wantAhead(now)
	e.findHolders(now)
	if e.Watched() <= e.config.MaxTracks/2 { // room for half as many as there may be
		e.schedule.Fill(now)
	}
	e.plan.Count = e.schedule.Count(now)
	e.plan.Pressure = e.plan.Count && e.program.NeedsPressure && now >= e.schedule.Sample()
	e.scans.pressing = e.scans.pressing || e.plan.Pressure
	if now >= e.summary.At {
		e.sumUpHeld(now, false)
	}
	e.keepGroups(now)
	e.keepStops()
	e.tidyRecords()
	e.forgetFingerprints()
	e.plan.Wake = min(e.firstDue(), e.firstFree(now), e.schedule.Wake(), e.walks.Wake(), e.killed.wake(), e.names.wake(), e.usages.Wake(), e.summary.At, e.nextAlert(), e.nextGroupAct(), e.disk.groupsAt, e.nearAt(), e.pausedUntil, e.problemsAt, e.nextVerdict(now))
	return e.plan
}

// finish brings to its end what is under way: acts are confirmed, and nothing
// else is begun.
func (e *Engine) finish(now sock.Instant) {
	e.plan.Wake = never
	e.plan.Alerts = append(e.names.release(), e.plan.Alerts...)
	if e.lookups.underWay < MaxLookupBatches {
		for key, a := range e.attempts {
			t := e.tracks.get(key)
			switch {
			case a.unconfirmed == nil || t.phase != waiting || len(e.plan.Lookup) == askBatch:
			case e.lookups.failing && t.due != 0 && t.askAt() > now:
				e.plan.Wake = min(e.plan.Wake, t.askAt())
			default:
				e.askFor(t)
			}
		}
		e.asked()
	}
	e.plan.Scan = nil
	e.undoOver()
	e.plan.Stopped = e.acts.underWay+e.acts.unconfirmed+e.groupActs.underWay+e.groupActs.undoing == 0
}

// Watched is how many sockets are kept in mind.
func (e *Engine) Watched() int { return e.tracks.n + e.far.n }

// Watches reports whether the socket is among them.
func (e *Engine) Watches(key sock.Key) bool {
	return e.tracks.get(key) != nil || e.far.get(key) != nil
}

// ScanInterval is the one for a class of rules; 0: there are no scans.
func (e *Engine) ScanInterval(c match.Class) time.Duration { return e.schedule.Interval(c) }

func (in Stop) apply(e *Engine, now sock.Instant) {
	e.stopping = true
	e.sumUpHeld(now, false)
	e.persistAll()
}

func (in CapabilitiesChanged) apply(e *Engine, _ sock.Instant) { e.allow(in.Capabilities) }

func (in Restored) apply(e *Engine, now sock.Instant) {
	e.earlier.memories = make(map[sock.Key]sock.Memory, len(in.Memories))
	for _, m := range in.Memories {
		if m.Entered <= now && m.Quiet <= now && m.Queued <= now {
			e.earlier.memories[m.Key] = m
		}
	}
	e.earlier.shares = make(map[uint64][]sock.Spent)
	for _, s := range in.Spent {
		if s.Share {
			e.earlier.shares[s.Rule] = append(e.earlier.shares[s.Rule], s)
			continue
		}
		h, at := e.historyOf(s.Rule), s.At.Add(restoreSlack)
		for range s.N {
			if s.Own {
				h.own.Spend(at)
				continue
			}
			h.real.Spend(at)
			h.unseen.Spend(at)
		}
	}
	for _, s := range in.Stops {
		e.historyOf(sock.RuleSum(s.Rule)).stop = &s
	}
	e.earlier.groups = make(map[uint64][]sock.Group)
	for _, g := range in.Groups {
		e.earlier.groups[g.Rule] = append(e.earlier.groups[g.Rule], g)
	}
}

func (in RulesChanged) apply(e *Engine, now sock.Instant) {
	e.sumUpHeld(now, false) // by the rules that held it back
	e.plan.Alerts = e.names.release()
	e.fallback = in.Fallback
	e.replaceRules(in.Program, now)
	e.program, e.ruledAt = in.Program, now
	e.problemsAt = now.Add(leastWait) // once their receivers are there
	e.allow(e.capabilities)           // which may be missing for another way than before
	e.holders = newHolders()
	e.walks.WantCounted(false, 0)
	e.usages.Retain(func(r spin.Rule) bool {
		return slices.ContainsFunc(e.rules, func(rs *ruleState) bool { return rs.spinRule() == r })
	})
	e.renewRecords(true)
	clear(e.awaiting)
	for t := range e.tracks.all() {
		t.set(simulated, t.is(simulated) && len(e.recordOf(t).marks) > 0)
		t.set(granted, false)
		t.turn = 0 // in a queue that is no more
		t.Print = 0
		if t.phase == waiting {
			e.wait(t, now)
		}
	}
	if e.scans.running == nil {
		e.bringNear(true, now)
	}
	e.noteStretch(e.schedule.ChangeRules(in.Program, now))
}

// observe takes in an answer about a socket. What it returns is in no queue. It completes
// the answer with what only scans tell.
func (e *Engine) observe(s *sock.Socket, sent, got, now sock.Instant) *tracked {
	fresh := track.TimesOf(s, sent, got, e.config.Precision)
	var c, before track.Connection
	t := e.tracks.get(s.ID.Key())
	if t == nil {
		if f := e.far.get(s.ID.Key()); f != nil {
			t = e.near(f)
		}
	}
	known, onDisk := t != nil, t != nil && t.is(stored)
	if known {
		before = e.tracks.connection(t)
	} else {
		known, onDisk = e.recall(s, sent, &before)
	}
	shut := known && t != nil && e.shutOf(t) != nil
	same, moved := known && before.Same(s, sent), false
	if shut {
		same = before.SameShut(s, sent)
	}
	switch {
	case same:
		c, moved = before, before.Progressed(s)
		c.Update(s, fresh, got)
	case shut && before.IsShut(s, sent):
		c = before.Successor(s, fresh, got)
		c.Autobound = before.Autobound // of which no scan may tell in this state
		e.leaveState(t)
	case known:
		c = before.Successor(s, fresh, got)
		if t != nil {
			t.set(stored, false) // that is forgotten below
			e.drop(t, Changed, now)
			t = nil
		}
	default:
		var waited bool
		before, waited = e.scans.waits.before(s)
		onDisk = onDisk || waited
		c = before.Successor(s, fresh, got)
	}
	c.TellAutobound(s)
	c.Autobound = s.Autobound
	if t == nil {
		t = e.tracks.add(&c)
		e.scans.waits.drop(s.ID.Key())
		t.set(stored, onDisk && same)
	} else {
		e.due.leave(t)
		e.leaveWaitQueue(t)
		t.Packed = c.Pack()
	}
	t.set(plain, isPlain(s, sent, got, &c.Times, e.config.Precision))
	e.persist(t, &c, &before, moved, now)
	if onDisk && !t.is(stored) {
		e.plan.Forget = append(e.plan.Forget, s.ID.Key())
	}
	return t
}

// isPlain reports whether the kernel alone knows the times of a socket as well, and will
// at a later scan. Who saw the socket enter its state may not be there then.
func isPlain(s *sock.Socket, sent, got sock.Instant, known *track.Times, precision time.Duration) bool {
	if !track.Lasting(s) {
		return false
	}
	agrees := func(t track.Times) bool {
		near := func(a, b sock.Instant) bool { return max(a.Sub(b), b.Sub(a)) <= 2*precision }
		return near(t.Base(), known.Base()) && near(t.SilentBase(), known.SilentBase())
	}
	if !agrees(track.KernelTimes(s, sent, got, precision)) {
		return false
	}
	// Of what waited in an accept queue after that, its entry into the state tells too much.
	return s.Entered == 0 || agrees(track.TimesOf(s, sent, got, precision))
}

// recall reports whether an earlier run knew the socket, and what, and whether the disk
// has something of it.
func (e *Engine) recall(s *sock.Socket, sent sock.Instant, c *track.Connection) (known, onDisk bool) {
	m, onDisk := e.earlier.memories[s.ID.Key()]
	delete(e.earlier.memories, s.ID.Key())
	if known = onDisk && m.ID == s.ID.Sum(); known {
		*c = track.Remembered(&m, s.ID, sent)
	}
	return known, onDisk
}

// drop forgets a track; result closes the record of one that a limit held back.
func (e *Engine) drop(t *tracked, result Result, now sock.Instant) {
	e.endGrant(t)
	e.leaveWaitQueue(t)
	if h := e.recordOf(t).held; h.rule != nil {
		s := e.lastKnown(t, &h)
		e.dropHeld(t, h, &s, result, now)
	}
	e.unsetDue(t)
	e.due.leave(t)
	key, gone := e.tracks.key(t), result == Gone || result == Done
	if gone || t.is(seen) {
		e.scans.outdate(key)
	}
	if w, waited := waitOf(&t.Packed); waited && !gone && !t.is(plain) {
		if w.stored = t.is(stored); e.scans.waits.add(key, w) {
			t.set(stored, false) // it is not forgotten
		}
	}
	if t.is(stored) {
		e.plan.Forget = append(e.plan.Forget, key)
	}
	delete(e.attempts, key)
	e.tracks.remove(t)
}

// wait has t attended to at an instant; never: when a scan sees it.
func (e *Engine) wait(t *tracked, at sock.Instant) {
	e.due.leave(t)
	t.phase, t.rank, t.lead = waiting, at, 0
	if at != never {
		e.due.add(t)
	}
}

// waitAhead does so, and has its holders looked for before.
func (e *Engine) waitAhead(t *tracked, at, now sock.Instant) {
	if at <= now || at == never || e.knowsHolders(t, at) {
		e.wait(t, at)
		return
	}
	lead := uint16(min(e.walks.Lead()/leadUnit, math.MaxUint16))
	e.wait(t, at.Add(-time.Duration(lead)*leadUnit))
	t.lead = lead
}
