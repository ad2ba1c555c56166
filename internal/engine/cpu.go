package engine

import (
	"cmp"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
)

// A killed socket is readable for good: a program that waits for its descriptor in
// a level-triggered poll, and does not close it, then spins. So the CPU usage of
// who holds the sockets is sampled before and after they are killed, and a rule
// whose kills made it jump leaves that holder alone until it is quiet again.
const (
	// jump is what usage rises by, in cores, that is no accident.
	jump = 0.5
	// jumpWithin is how long after a kill a jump is put down to it, and for how long
	// before it the usage counts that was normal.
	jumpWithin = 10 * time.Second
	// jumpSurely is how long usage must be that much above the highest of before. What
	// a program does about an error once is over by then.
	jumpSurely = 2 * time.Second
	// quietFor is how long usage must be down before the holder's sockets are killed
	// again; half of the jump must be gone.
	quietFor = 5 * time.Second
	// sampleEvery is how often usage is sampled.
	sampleEvery = time.Second
	// firstSamples is how long it takes to know usage: two samples, and a moment for
	// the second to arrive.
	firstSamples = sampleEvery + 200*time.Millisecond
	// leastShare is the least share of what a process wants that its CPU time is scaled
	// up from: below it, the ticks that the kernel counts in would decide.
	leastShare = 0.1
	// mostWatched bounds how many holders are sampled: for so many, of ten threads each,
	// it takes a twentieth of a core.
	mostWatched = 1000
	// unwatchAfter is how long a holder is sampled that has nothing to be killed.
	unwatchAfter = time.Minute
	// usageKept is for how long usages are kept: for the windows before and after.
	usageKept = 2*jumpWithin + 2*jumpSurely
)

// holderSpins is the name under which it is counted that a socket is left alone for
// that.
const holderSpins = "holder_spins"

// Process is one life of a PID.
type Process struct {
	PID   int
	Start uint64 // as in sock.Holder, and never 0
}

// Usage is how much CPU a process had used at an instant.
type Usage struct {
	Process
	At         sock.Instant
	CPU, Lived time.Duration
	Waited     time.Duration // that its threads could have run, and others did; below 0: not known
	Gone       bool          // it has ended
}

// Sampled says what a plan's Sample found; nothing of those that could not be read.
type Sampled struct{ Usages []Usage }

// Spin is a holder of sockets that uses much more CPU since a rule had some of them
// killed. The rule leaves its sockets alone until that is over.
type Spin struct {
	Rule          string
	PID           int
	Comm          string
	Since         sock.Instant
	Before, After float64 // cores that it used
	Waits         float64 // cores that it would use now, beside those, if it got them

	before load
}

// usages is what is known of the CPU usage of those whose sockets are killed.
type usages struct {
	holders  map[Process]*holder
	sampling bool         // the samples are under way
	next     sock.Instant // when to take some
}

// holder is one process that holds sockets which are to be killed.
type holder struct {
	comm    string
	samples []Usage      // the last ones, oldest first
	due     sock.Instant // to be sampled
	began   sock.Instant // when it was first to be sampled
	used    sock.Instant // when it was last known to hold such a socket
	gone    bool
	kills   []holderKill // those that a jump may be put down to, oldest first
	spins   map[*ruleState]Spin
}

// holderKill is the first kill of a holder by a rule within a second.
type holderKill struct {
	rule *ruleState
	at   sock.Instant
}

func newUsages() usages { return usages{holders: make(map[Process]*holder), next: never} }

// of are the holders of t that are watched.
func (u *usages) of(t *tracked) []*holder {
	if t.holders == nil || len(u.holders) == 0 {
		return nil
	}
	var list []*holder
	for _, o := range t.holders.Processes {
		if h := u.holders[Process{o.PID, o.Start}]; h != nil {
			list = append(list, h)
		}
	}
	return list
}

// watch has the holders of a socket sampled that is to be killed.
func (u *usages) watch(holders []sock.Holder, now sock.Instant) {
	for _, o := range holders {
		if o.Start == 0 {
			continue
		}
		h := u.holders[Process{o.PID, o.Start}]
		if h == nil && len(u.holders) >= mostWatched {
			continue
		}
		if h == nil {
			h = &holder{comm: o.Comm, due: now, began: now, spins: make(map[*ruleState]Spin)}
			u.holders[Process{o.PID, o.Start}] = h
			u.next = min(u.next, now)
		}
		h.used = now
	}
}

// awaitUsage is until when the first kills of the holders of t wait, so that it is
// known how much CPU they use without them. What was seen before it fell due is not
// late for that.
func (e *Engine) awaitUsage(t *tracked, now sock.Instant) sock.Instant {
	if t.holders == nil {
		return 0
	}
	e.usages.watch(t.holders.Processes, now)
	if t.foreseen {
		return 0
	}
	until := sock.Instant(0)
	for _, h := range e.usages.of(t) {
		if !h.gone && len(h.kills) == 0 && len(h.spins) == 0 {
			until = max(until, h.began.Add(firstSamples))
		}
	}
	return until
}

// spins reports whether a holder of t spins since the rule had its sockets killed.
func (e *Engine) spins(t *tracked, r *ruleState) bool {
	return slices.ContainsFunc(e.usages.of(t), func(h *holder) bool { _, is := h.spins[r]; return is })
}

// wasKilled notes for the holders of t that it was killed.
func (e *Engine) wasKilled(t *tracked, at sock.Instant) {
	if t.holders == nil || t.rule.replaced {
		return
	}
	e.usages.watch(t.holders.Processes, at)
	for _, h := range e.usages.of(t) {
		if h.gone {
			continue
		}
		h.forgetKills(at)
		recent := func(k holderKill) bool { return k.rule == t.rule && at.Sub(k.at) < sampleEvery }
		if !slices.ContainsFunc(h.kills, recent) {
			h.kills = append(h.kills, holderKill{t.rule, at})
		}
	}
}

// sampleUsage asks for the samples that are due.
func (e *Engine) sampleUsage(now sock.Instant) {
	u := &e.usages
	if u.sampling || now < u.next {
		return
	}
	for p, h := range u.holders {
		if now.Sub(h.used) >= unwatchAfter && (len(h.spins) == 0 || h.gone) {
			delete(u.holders, p)
		} else if h.due <= now && !h.gone {
			e.plan.Sample = append(e.plan.Sample, p)
			h.due = now.Add(sampleEvery)
		}
	}
	slices.SortFunc(e.plan.Sample, func(a, b Process) int { return a.PID - b.PID })
	u.sampling = len(e.plan.Sample) > 0
	u.schedule()
}

// schedule sets when to take the next samples.
func (u *usages) schedule() {
	u.next = never
	for _, h := range u.holders {
		if h.gone {
			u.next = min(u.next, h.used.Add(unwatchAfter))
		} else {
			u.next = min(u.next, h.due)
		}
	}
}

func (u *usages) wake() sock.Instant {
	if u.sampling {
		return never
	}
	return u.next
}

func (in Sampled) apply(e *Engine, now sock.Instant) {
	u := &e.usages
	u.sampling = false
	for _, s := range in.Usages {
		h := u.holders[s.Process]
		switch {
		case h == nil:
		case s.Gone:
			// It is remembered, so that it is not tried again with every socket.
			h.gone, h.samples, h.kills = true, nil, nil
			clear(h.spins)
		default:
			h.due = now.Add(sampleEvery)
			h.take(s)
			e.judge(s.Process, h, now)
		}
	}
	u.schedule()
}

// take adds a sample, and forgets what is too old to matter.
func (h *holder) take(s Usage) {
	if n := len(h.samples); n > 0 && s.At <= h.samples[n-1].At {
		return
	}
	h.samples = append(h.samples, s)
	old := 0
	for old < len(h.samples)-2 && s.At.Sub(h.samples[old+1].At) > usageKept {
		old++
	}
	h.samples = slices.Delete(h.samples, 0, old)
	h.forgetKills(s.At)
}

// forgetKills forgets the kills to which nothing that happens now is put down.
func (h *holder) forgetKills(now sock.Instant) {
	h.kills = slices.DeleteFunc(h.kills, func(k holderKill) bool { return now.Sub(k.at) > jumpWithin+jumpSurely })
}

// judge finds out whether a holder began to spin, or has ended to.
func (e *Engine) judge(p Process, h *holder, now sock.Instant) {
	var told []*ruleState
	for _, k := range h.kills {
		if slices.Contains(told, k.rule) {
			continue // an earlier kill of the rule says more
		}
		told = append(told, k.rule)
		if _, is := h.spins[k.rule]; is {
			continue
		}
		if before, after, jumped := h.jumped(k.at); jumped {
			h.spins[k.rule] = Spin{Rule: k.rule.Name, PID: p.PID, Comm: h.comm, Since: now, Before: before.used, After: after.used, Waits: after.waits(), before: before}
			e.note(slog.LevelError, "kills made a program spin; the rule leaves it alone until it is quiet",
				slog.String("rule", k.rule.Name), slog.Int("pid", p.PID), slog.String("comm", h.comm),
				slog.String("cpu_before", percent(before.used)), slog.String("cpu", percent(after.used)), slog.String("cpu_waits", percent(after.waits())))
		}
	}
	for _, r := range slices.SortedFunc(maps.Keys(h.spins), byName) {
		s := h.spins[r]
		usage, known := h.since(h.last().At.Add(-quietFor))
		if !known || now.Sub(s.Since) < quietFor {
			continue // what it used before is no sign that it is over
		}
		if s.After, s.Waits = usage.used, usage.waits(); usage.above(s.before) >= jump/2 {
			h.spins[r] = s
			continue
		}
		delete(h.spins, r)
		e.note(slog.LevelInfo, "the program is quiet again; the rule goes on killing its sockets",
			slog.String("rule", s.Rule), slog.Int("pid", p.PID), slog.String("comm", h.comm), slog.String("cpu", percent(usage.used)))
		e.revalidate(p, now)
	}
}

// percent is a usage as top(1) shows it.
func percent(cores float64) string { return strconv.FormatFloat(100*cores, 'f', 0, 64) + "%" }

// revalidate has everything asked again that a holder has and that waits for a scan.
func (e *Engine) revalidate(p Process, now sock.Instant) {
	for _, t := range e.tracks {
		holds := func(o sock.Holder) bool { return o.PID == p.PID && o.Start == p.Start }
		if t.blocked && t.phase == waiting && t.held == nil && t.holders != nil && slices.ContainsFunc(t.holders.Processes, holds) {
			e.wait(t, now)
		}
	}
}

func (h *holder) last() Usage { return h.samples[len(h.samples)-1] }

// load is what a process uses of CPU, in cores, and what it wants: that, and what it
// could have used but for others. Where the machine is busy, or a cgroup has a quota,
// a program that spins gets less than it wants.
type load struct{ used, wanted float64 }

// loadBetween is the load from one sample to another.
func loadBetween(from, to Usage) load {
	lived := float64(to.At.Sub(from.At))
	used := float64(to.CPU-from.CPU) / lived
	if from.Waited < 0 || to.Waited < 0 {
		return load{used, used}
	}
	// Threads that end take with them what they have waited.
	return load{used, used + max(0, float64(to.Waited-from.Waited)/lived)}
}

func (l load) waits() float64 { return l.wanted - l.used }

// above is by how many cores more is wanted than before, as far as more is used,
// too: who only waits for longer does no more than before. What is used counts as if
// all that is wanted were got.
func (l load) above(before load) float64 {
	share := 1.0
	if l.waits() > 0 {
		share = max(leastShare, l.used/l.wanted)
	}
	return min(l.wanted-before.wanted, (l.used-before.used)/share)
}

// highest is the higher one in each.
func (l load) highest(m load) load { return load{max(l.used, m.used), max(l.wanted, m.wanted)} }

// since is the usage from an instant, or a little before it, to the last sample;
// known is false where that was not sampled yet.
func (h *holder) since(at sock.Instant) (usage load, known bool) {
	for i := len(h.samples) - 2; i >= 0; i-- {
		if h.samples[i].At <= at {
			return loadBetween(h.samples[i], h.last()), true
		}
	}
	return load{}, false
}

// jumped reports whether the usage is so much higher since a kill that it is no
// accident: for a short time higher than the highest of before, or for a long time
// higher than the mean of before.
func (h *holder) jumped(kill sock.Instant) (before, after load, is bool) {
	mean, highest := h.before(kill)
	last := h.last().At
	if usage, known := h.since(last.Add(-jumpSurely)); known && h.sampledBetween(kill, last.Add(-jumpSurely)) && usage.above(highest) >= jump {
		return highest, usage, true
	}
	if last.Sub(kill) < jumpWithin {
		return load{}, load{}, false
	}
	usage, known := h.since(last.Add(-jumpWithin))
	return mean, usage, known && usage.above(mean) >= jump
}

// sampledBetween reports whether there is a sample in [from, to].
func (h *holder) sampledBetween(from, to sock.Instant) bool {
	return slices.ContainsFunc(h.samples, func(s Usage) bool { return from <= s.At && s.At <= to })
}

// before is the usage before a kill, and the highest in a second of that. Where it
// was not sampled for long enough, it is what the process used in all its life.
func (h *holder) before(kill sock.Instant) (mean, highest load) {
	var then []Usage
	for _, s := range h.samples {
		if kill.Sub(s.At) >= 0 && kill.Sub(s.At) <= jumpWithin+sampleEvery {
			then = append(then, s)
		}
	}
	if len(then) == 0 || then[len(then)-1].At.Sub(then[0].At) < sampleEvery/2 {
		first := h.samples[0]
		lived := float64(max(first.Lived, sampleEvery))
		used := float64(first.CPU) / lived
		mean = load{used, used + float64(max(0, first.Waited))/lived}
		return mean, mean
	}
	mean = loadBetween(then[0], then[len(then)-1])
	highest = mean
	for i := range then {
		for j := i + 1; j < len(then); j++ {
			if then[j].At.Sub(then[i].At) >= sampleEvery {
				highest = highest.highest(loadBetween(then[i], then[j]))
				break
			}
		}
	}
	return mean, highest
}

// spinning are those that rules leave alone, by rule and PID.
func (e *Engine) spinning() []Spin {
	var list []Spin
	for _, h := range e.usages.holders {
		list = slices.AppendSeq(list, maps.Values(h.spins))
	}
	slices.SortFunc(list, func(a, b Spin) int { return cmp.Or(strings.Compare(a.Rule, b.Rule), a.PID-b.PID) })
	return list
}

// forgetReplaced forgets what is known of rules that are no more, or say something
// else: who changes a rule wants to see what it does now.
func (u *usages) forgetReplaced() {
	for _, h := range u.holders {
		h.kills = slices.DeleteFunc(h.kills, func(k holderKill) bool { return k.rule.replaced })
		maps.DeleteFunc(h.spins, func(r *ruleState, _ Spin) bool { return r.replaced })
	}
}

// kills reports whether the rule has the socket killed, and not only says so.
func (e *Engine) kills(r *ruleState, s *sock.Socket) bool {
	return !r.DryRun && e.capabilities.Cannot(s) == ""
}

// killsAny reports whether any rule has anything killed.
func (e *Engine) killsAny() bool {
	return e.capabilities.Kill == "" && slices.ContainsFunc(e.program.rules, func(r rule) bool { return r.Enabled && r.destroys && !r.DryRun })
}
