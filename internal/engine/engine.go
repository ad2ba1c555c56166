package engine

import (
	"log/slog"
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/engine/limit"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/spin"
	"github.com/sockdog/sockdog/internal/engine/track"
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
	// MostAskBatches is how many plans with questions can be under way at once:
	// while the answers to one are decided on, the kernel answers the next.
	MaxLookupBatches = 2
	// MostActBatches is how many plans with acts can be under way at once.
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

// Engine holds the state. It is not safe for concurrent use.
type Engine struct {
	config       Config
	program      *match.Program
	capabilities match.Capabilities

	tracks  map[uint64]*tracked // by cookie
	due     queue               // waiting for an instant
	asking  int                 // batches asked for
	answers int                 // in the batch that is being taken in
	deaf    bool                // the last question failed
	asks    spell               // of questions that fail
	acting  int                 // acts under way

	confirming int // acts that the kernel has done, to be confirmed
	stopping   bool

	rules           []*ruleState        // in the order of the file
	histories       map[uint64]*history // by rule.id, of rules that are away, too
	limit, dryLimit limit.Window        // of all rules together
	summary         summary             // of what limits hold back

	restored map[sock.Key]sock.Memory
	recalls  [match.NumClasses]int   // whole scans for each class since there are rules for which to remember
	moved    ration                  // of what is written to disk of them
	revived  map[uint64][]sock.Group // by the rule's fingerprint, until there are rules
	fallback bool                    // the rules in force are in the place of others

	turned  bool         // there is something new to be kept of the groups
	keptAt  sock.Instant // when to say anew what there is
	ruledAt sock.Instant

	sight   sight
	lookups holderLookups
	usages  spin.Watcher

	plan Plan // being made
}

// New returns an engine without rules: it does nothing until it is RulesChanged.
func New(config Config) *Engine {
	return &Engine{
		config:    config,
		program:   match.Compile(&rules.Set{}),
		tracks:    make(map[uint64]*tracked),
		histories: make(map[uint64]*history),
		sight:     newSight(),
		lookups:   newHolderLookups(),
		usages:    spin.New(),
		summary:   newSummary(),
		keptAt:    never,
	}
}

// Step takes in what happened and returns what is to be done.
func (e *Engine) Step(now sock.Instant, in Input) Plan {
	e.plan = Plan{}
	if in != nil {
		in.apply(e, now)
	}
	if e.stopping {
		e.finish(now)
		return e.plan
	}
	e.release(now)
	e.ask(now)
	e.resolve(now)
	e.plan.Sample = e.usages.Due(now)
	e.sound(now)
	e.fill(now)
	e.scanAround(now)
	e.summarize(now)
	e.keep(now)
	e.plan.Wake = min(e.firstDue(), e.firstFree(now), e.sight.wake(), e.lookups.wake(), e.usages.Wake(), e.summary.at, e.firstAlarm(), e.keptAt)
	return e.plan
}

// finish brings to its end what is under way: acts are confirmed, and nothing
// else is begun.
func (e *Engine) finish(now sock.Instant) {
	e.plan.Wake = never
	if e.asking < MaxLookupBatches {
		for _, t := range e.tracks {
			switch {
			case t.act == nil || t.phase != waiting || len(e.plan.Lookup) == askBatch:
			case e.deaf && t.goal > now:
				e.plan.Wake = min(e.plan.Wake, t.goal)
			default:
				t.ask(&e.plan)
			}
		}
		e.asked()
	}
	e.plan.Scan = nil
	e.plan.Stopped = e.acting+e.confirming == 0
}

// Watched is how many sockets are kept in mind.
func (e *Engine) Watched() int { return len(e.tracks) }

func (in Stop) apply(e *Engine, now sock.Instant) {
	e.stopping = true
	e.sumUp(now)
	e.persistAll()
}

func (in CapabilitiesChanged) apply(e *Engine, _ sock.Instant) { e.capabilities = in.Capabilities }

func (in Restored) apply(e *Engine, now sock.Instant) {
	e.restored = make(map[sock.Key]sock.Memory, len(in.Memories))
	for _, m := range in.Memories {
		if m.Entered <= now && m.Quiet <= now && m.Queued <= now {
			e.restored[m.Key] = m
		}
	}
	for _, s := range in.Spent {
		h, at := e.historyOf(s.Rule), s.At.Add(restoreSlack)
		for range s.N {
			h.real.Spend(at)
			e.limit.Spend(at)
		}
	}
	e.revived = make(map[uint64][]sock.Group)
	for _, g := range in.Groups {
		e.revived[g.Rule] = append(e.revived[g.Rule], g)
	}
}

func (in RulesChanged) apply(e *Engine, now sock.Instant) {
	e.sumUp(now) // by the rules that held it back
	e.fallback = in.Fallback
	e.replaceRules(in.Program, now)
	e.program, e.ruledAt = in.Program, now
	e.usages.Retain(func(r spin.Rule) bool {
		return slices.ContainsFunc(e.rules, func(rs *ruleState) bool { return rs.spinRule() == r })
	})
	for _, t := range e.tracks {
		t.marks = slices.DeleteFunc(t.marks, func(m mark) bool { return m.rule.replaced })
		t.spared = slices.DeleteFunc(t.spared, func(h hindrance) bool { return h.rule.replaced })
		t.turn, t.would = false, t.would && len(t.marks) > 0
		t.line.in = nil // of a queue that is no more
		if t.phase == waiting {
			e.wait(t, now)
		}
	}
	e.sight.rule(in.Program, now)
	e.space(0)
}

// observe takes in what the kernel says of a socket and returns its track. It
// completes the answer with what only scans tell.
func (e *Engine) observe(s *sock.Socket, sent, got sock.Instant) *tracked {
	fresh := track.TimesOf(s, sent, got, e.config.Precision)
	t := e.tracks[s.ID.Cookie]
	stale, moved := false, false // what is on disk, the counters
	if t == nil {
		t = e.recall(&s.ID, sent)
	}
	switch {
	case t == nil:
		c := track.Connection{ID: s.ID, Backlog: e.sight.waited.has(s.ID.Cookie)}
		t = newTracked(c.Successor(s, fresh, got))
	case !t.Same(s, sent):
		next := newTracked(t.Successor(s, fresh, got))
		stale, t.stored = t.stored.any, stored{}
		e.drop(t, Changed, changedConnection)
		t = next
	default:
		if moved = t.Progressed(s); moved {
			t.stored.quiet = never // whatever the disk has is of another time
		}
		t.Update(s, fresh, got)
	}
	t.TellAutobound(s)
	t.Autobound = s.Autobound
	t.got = got
	t.plain = track.Lasting(s) && max(fresh.Base().Sub(t.Base()), t.Base().Sub(fresh.Base())) <= 2*e.config.Precision
	e.tracks[s.ID.Cookie] = t
	e.persist(t, moved)
	if stale && !t.stored.any {
		e.plan.Forget = append(e.plan.Forget, t.ID.Key())
	}
	return t
}

// recall returns what an earlier run knew of the socket, or nil.
func (e *Engine) recall(id *sock.ID, sent sock.Instant) *tracked {
	m, ok := e.restored[id.Key()]
	if !ok {
		return nil
	}
	delete(e.restored, id.Key())
	if m.ID == id.Sum() {
		t := newTracked(track.Remembered(&m, *id, sent))
		t.stored = storedOf(&m)
		return t
	}
	e.plan.Forget = append(e.plan.Forget, m.Key)
	return nil
}

// drop forgets a track; result and why close the record of one that a limit
// held back.
func (e *Engine) drop(t *tracked, result Result, why string) {
	e.endTurn(t)
	if t.held != nil {
		e.letGo(t.held, result, why)
	}
	e.unalert(t)
	t.alarm.leave()
	t.line.leave()
	delete(e.tracks, t.ID.Cookie)
	if result == Gone || result == Done {
		e.sight.bury(t.ID.Cookie)
	}
	if t.stored.any {
		e.plan.Forget = append(e.plan.Forget, t.ID.Key())
	}
}

// wait has t attended to at next; never: when a scan sees it.
func (e *Engine) wait(t *tracked, next sock.Instant) {
	t.phase, t.goal = waiting, next
	t.alarm.leave()
	if next == never {
		return
	}
	if t.holders == nil && !t.wanted && t.Inode != 0 {
		next = next.Add(-e.lookups.lead())
	}
	e.due.add(&t.alarm, next)
}

func (e *Engine) firstDue() sock.Instant {
	if e.due.empty() || e.asking == MaxLookupBatches || e.acting >= actBacklog {
		return never // an answer comes first
	}
	return e.due.first().alarm.rank
}

// ask has the kernel asked for what is due.
func (e *Engine) ask(now sock.Instant) {
	if e.asking == MaxLookupBatches || e.acting >= actBacklog {
		return
	}
	for !e.due.empty() && len(e.plan.Lookup) < askBatch {
		t := e.due.first()
		if t.alarm.rank > now {
			break
		}
		e.lookups.want(t, t.goal)
		if t.goal > now {
			e.wait(t, t.goal)
			continue
		}
		t.ask(&e.plan)
	}
	e.asked()
}

// asked counts the plan's questions as under way.
func (e *Engine) asked() {
	if len(e.plan.Lookup) > 0 {
		e.asking++
	}
}

func (t *tracked) ask(p *Plan) {
	t.alarm.leave()
	t.line.leave()
	t.phase = asked
	p.Lookup = append(p.Lookup, t.ID)
}

func (in LookupDone) apply(e *Engine, now sock.Instant) {
	e.asking--
	e.answers = len(in.Answers)
	if began, _ := e.asks.note(in.Err != nil); began {
		e.note(slog.LevelWarn, "the kernel did not answer about single sockets: nothing is concluded from that, they are asked for again", slog.String("error", in.Err.Error()))
	}
	e.deaf = in.Err != nil
	for i := range in.Answers {
		a := &in.Answers[i]
		t := e.tracks[a.ID.Cookie]
		if t == nil || t.phase != asked || t.ID != a.ID {
			continue
		}
		switch {
		case a.Err != nil:
			e.askAgain(t, now)
		case t.act != nil:
			e.confirm(t, a, now)
		case a.Gone:
			e.drop(t, Gone, "it ended by itself")
		default:
			e.consider(e.observe(&a.Socket, a.Sent, a.Got), &a.Socket, now, true)
		}
	}
	for _, id := range in.IDs {
		// What a failed batch left without an answer.
		if t := e.tracks[id.Cookie]; t != nil && t.phase == asked {
			e.askAgain(t, now)
		}
	}
}

func (e *Engine) askAgain(t *tracked, now sock.Instant) {
	e.endTurn(t)
	after := retryAfter
	if e.stopping {
		after = stopRetry
	}
	e.wait(t, now.Add(after))
}

// consider decides what the rules want of a socket. Only an exact answer about
// it alone is good enough to act on; what a scan shows is good enough to ask. How
// old the answer is does not matter: an act is decided again by a newer one.
func (e *Engine) consider(t *tracked, s *sock.Socket, now sock.Instant, exact bool) {
	e.endTurn(t)
	t.line.leave()
	was := t.held
	t.held, t.blocked, t.aged, t.of, t.phase = nil, false, false, 0, waiting
	next, decided, ordered := never, false, false
	gone := notMatched // what is said of one that is held no longer
	for candidate := range e.program.RulesFor(s) {
		r := e.rules[candidate.Position]
		t.of |= 1 << r.Class
		fired := sock.Instant(0)
		if r.Grouped {
			var doubted bool
			fired, doubted = e.fired(r, s, now)
			if doubted && was != nil && t.rule == r {
				gone = "whether its group still fires was not seen for too long"
			}
			t.aged = t.aged || r.Timed && !t.plain
		}
		for j := range r.Then {
			a := &r.Then[j]
			if r.Grouped && (fired == never || !a.Kind.Destructive) {
				continue // what else it does, it does about the group
			}
			if m := t.marked(r, j); m != nil && !m.open && a.Kind != rules.Alert {
				continue
			}
			if a.Kind.Destructive && !ordered {
				t.order, ordered = orderOf(t, a), true
			}
			stands, at := r.Decide(a, &t.Times, s, fired, now, exact)
			if a.Kind == rules.Alert {
				e.alert(t, r, j, stands == match.Due)
			}
			switch {
			case stands != match.Due:
				next = min(next, max(at, now.Add(leastWait)))
				t.blocked = t.blocked || stands == match.Blocked
				t.foreseen = t.foreseen || stands == match.NotDue && at != never
				t.ahead = t.ahead || at.Sub(now) >= time.Second
				if stands == match.Blocked && a.Kind.Destructive && s.InUse() {
					e.spare(t, r, "in_use")
				}
			case a.Kind == rules.Alert:
				// It is counted for as long as it is due.
			case e.awaitsHolders(t, s, now):
				next = min(next, t.patience)
			case !a.Kind.Destructive:
				e.say(e.action(t, s, r, j, now), Done)
				t.mark(r, j)
			case t.survived || t.phase == acted || t.held != nil && (!t.held.DryRun || r.DryRun || e.capabilities.Cannot(a.Kind, s) != ""),
				t.would && (r.DryRun || e.capabilities.Cannot(a.Kind, s) != ""):
				// It was told already, or an earlier rule has it.
			case e.guard(t, s) != "":
				t.blocked = true
				e.spare(t, r, match.SkipName(e.guard(t, s)))
			case e.kills(r, a, s) && e.usages.Spins(t.heldBy(), r.spinRule()):
				t.blocked = true
				e.spare(t, r, holderSpins)
				if was != nil && t.rule == r {
					gone = "its holder spins since others of its sockets were killed"
				}
			case now < t.again:
				next = min(next, t.again)
			case !exact && was != nil && t.rule == r && t.action == j:
				t.held = was // and waits on
			case !exact:
				if was == nil || !r.DryRun {
					next = now
				}
			case e.kills(r, a, s) && was == nil && now < e.awaitUsage(t, now):
				next = min(next, e.awaitUsage(t, now))
			case !e.stopping:
				decided = e.destroy(t, s, r, j, fired, at, now) || decided
			}
		}
	}
	for _, m := range t.marks {
		// It is remembered, so that nothing is done twice, while the rule may come to
		// match again.
		if m.rule.Volatile && m.rule.Enabled {
			t.of |= 1 << m.rule.Class
		}
	}
	if was != nil && t.held == nil && !decided {
		e.letGo(was, Changed, gone)
	}
	switch {
	case t.phase == acted:
	case t.held != nil:
		e.hold(t, next)
	case e.needs(t, next, now):
		e.wait(t, next)
	default:
		e.drop(t, Changed, "")
	}
}

// needs reports whether t has to be kept in mind: what a later scan will find in
// time, and know as much of, is left to that.
func (e *Engine) needs(t *tracked, next, now sock.Instant) bool {
	switch {
	case t.of == 0:
		return false
	case t.blocked || t.aged || t.wanted || len(t.marks) > 0:
		return true
	case next == never:
		return false
	case !t.plain || next <= e.horizon(t.of, now) || e.sight.scanning != nil:
		return true
	}
	e.sight.leave(t.of, next)
	return false
}

func (e *Engine) note(level slog.Level, text string, attrs ...slog.Attr) {
	e.plan.Notes = append(e.plan.Notes, Note{level, text, attrs})
}
