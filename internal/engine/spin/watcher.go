// Package spin finds out which programs spin since sockets of theirs were killed. It
// decides by samples of their CPU usage that others take, and does nothing about it.
//
// A killed socket is readable for good: a program that waits for its descriptor in
// a level-triggered poll, and does not close it, then spins. So the CPU usage of
// the holders is sampled before and after their sockets are killed, and a rule
// whose kills made it jump leaves that holder alone until it is quiet again.
package spin

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
)

const (
	// sampleEvery is how often usage is sampled.
	sampleEvery = time.Second
	// firstSamples is how long it takes to know usage: two samples, and a moment for
	// the second to arrive.
	firstSamples = sampleEvery + 200*time.Millisecond
	// maxHolders bounds how many holders are sampled: for so many, of ten threads each,
	// it takes a twentieth of a core.
	maxHolders = 1000
	// ForgetAfter is how long a holder is sampled that has nothing to be killed.
	ForgetAfter = time.Minute
)

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
	Runs       int64         // how often its threads were woken, or went on; below 0: not known
	Gone       bool          // it has ended
}

// Rule identifies a rule as long as it says the same.
type Rule struct{ Name, Sum string }

// Spin is a holder of sockets that uses much more CPU since a rule had some of them
// killed.
type Spin struct {
	Rule          string
	PID           int
	Comm          string
	Since         sock.Instant
	Before, After float64 // cores that it used
	Waits         float64 // cores that it would use now, beside those, if it got them

	before load
}

// Change says that a spin has begun, or is over.
type Change struct {
	Spin
	Process Process
	Over    bool
}

// Watcher watches the holders of sockets that are killed, or soon may be.
type Watcher struct {
	holders  map[Process]*holder
	sampling bool         // the samples are under way
	next     sock.Instant // when to take some
}

// holder is one process that is watched.
type holder struct {
	history
	comm  string
	due   sock.Instant            // when to sample it
	began sock.Instant            // when it was first to be sampled
	used  sock.Instant            // when it was last known to hold such a socket
	gone  bool                    // it has ended
	kills map[Rule][]sock.Instant // that a jump may be put down to, a second apart, oldest first
	spins map[Rule]Spin
}

// New returns a Watcher that watches nobody.
func New() Watcher { return Watcher{holders: make(map[Process]*holder), next: sock.Never} }

// of returns those of the processes that are watched.
func (w *Watcher) of(processes []sock.Holder) (list []*holder) {
	for _, p := range processes {
		if h := w.holders[Process{p.PID, p.Start}]; h != nil {
			list = append(list, h)
		}
	}
	return list
}

// Watch has the holders of a socket sampled that is to be killed.
func (w *Watcher) Watch(processes []sock.Holder, now sock.Instant) {
	for _, p := range processes {
		h := w.holders[Process{p.PID, p.Start}]
		switch {
		case h != nil:
			h.used = now
		case p.Start != 0 && len(w.holders) < maxHolders:
			w.holders[Process{p.PID, p.Start}] = &holder{
				comm: p.Comm, due: now, began: now, used: now, kills: make(map[Rule][]sock.Instant), spins: make(map[Rule]Spin),
			}
			w.next = min(w.next, now)
		}
	}
}

// KnownAt returns the instant at which it is known how much CPU the holders use
// without any kill.
func (w *Watcher) KnownAt(processes []sock.Holder) (at sock.Instant) {
	for _, h := range w.of(processes) {
		if !h.gone && len(h.kills)+len(h.spins) == 0 {
			at = max(at, h.began.Add(firstSamples))
		}
	}
	return at
}

// Spins reports whether one of the holders spins since the rule had its sockets killed.
func (w *Watcher) Spins(processes []sock.Holder, r Rule) bool {
	return slices.ContainsFunc(w.of(processes), func(h *holder) bool { _, is := h.spins[r]; return is })
}

// Seen reports whether it is known what all of the holders have used since an instant, for
// long enough to tell whether they spin; ended: one of them has ended since.
func (w *Watcher) Seen(processes []sock.Holder, since sock.Instant) (seen, ended bool) {
	seen = len(processes) > 0
	for _, p := range processes {
		h := w.holders[Process{p.PID, p.Start}]
		ended = ended || h != nil && h.gone
		seen = seen && h != nil && len(h.history) > 0 && h.last().At >= since.Add(jumpSurely+sampleEvery)
	}
	return seen, ended
}

// Killed takes in that the rule had a socket of the holders killed.
func (w *Watcher) Killed(processes []sock.Holder, r Rule, at sock.Instant) {
	w.Watch(processes, at)
	for _, h := range w.of(processes) {
		if h.gone {
			continue
		}
		h.forgetKills(at)
		if before := h.kills[r]; len(before) == 0 || at.Sub(before[len(before)-1]) >= sampleEvery {
			h.kills[r] = append(before, at)
		}
	}
}

// forgetKills forgets the kills that nothing which happens now is put down to.
func (h *holder) forgetKills(now sock.Instant) {
	for r, kills := range h.kills {
		h.kills[r] = slices.DeleteFunc(kills, func(at sock.Instant) bool { return now.Sub(at) > jumpWithin+jumpSurely })
		if len(h.kills[r]) == 0 {
			delete(h.kills, r)
		}
	}
}

// Due returns the processes to be sampled now. Until Take has their usage, it
// returns no more.
func (w *Watcher) Due(now sock.Instant) (due []Process) {
	if w.sampling || now < w.next {
		return nil
	}
	for p, h := range w.holders {
		if now.Sub(h.used) >= ForgetAfter && (len(h.spins) == 0 || h.gone) {
			delete(w.holders, p)
		} else if h.due <= now && !h.gone {
			due = append(due, p)
			h.due = now.Add(sampleEvery)
		}
	}
	slices.SortFunc(due, func(a, b Process) int { return a.PID - b.PID })
	w.sampling = len(due) > 0
	w.schedule()
	return due
}

// schedule sets when to take the next samples.
func (w *Watcher) schedule() {
	w.next = sock.Never
	for _, h := range w.holders {
		if h.gone {
			w.next = min(w.next, h.used.Add(ForgetAfter))
		} else {
			w.next = min(w.next, h.due)
		}
	}
}

// Wake returns when Due has something to return, or to forget.
func (w *Watcher) Wake() sock.Instant {
	if w.sampling {
		return sock.Never
	}
	return w.next
}

// Take takes in the samples of those who were due. A process that could not be read
// is not among them.
func (w *Watcher) Take(samples []Usage, now sock.Instant) (changes []Change) {
	w.sampling = false
	for _, s := range samples {
		h := w.holders[s.Process]
		switch {
		case h == nil:
		case s.Gone:
			// It is remembered, so that it is not tried again with every socket.
			h.gone, h.history = true, nil
			clear(h.kills)
			clear(h.spins)
		default:
			h.due = now.Add(sampleEvery)
			h.take(s)
			h.forgetKills(s.At)
			changes = h.judge(changes, s.Process, now)
		}
	}
	w.schedule()
	return changes
}

// judge finds out whether a holder has begun to spin, or has ended to.
func (h *holder) judge(changes []Change, p Process, now sock.Instant) []Change {
	from := len(changes)
	for r, kills := range h.kills {
		if _, is := h.spins[r]; is {
			continue
		}
		// The earliest of the kills says the most.
		if before, after, jumped := h.jumped(kills[0]); jumped {
			h.spins[r] = Spin{Rule: r.Name, PID: p.PID, Comm: h.comm, Since: now, Before: before.used, After: after.used, Waits: after.waits(), before: before}
			changes = append(changes, Change{Spin: h.spins[r], Process: p})
		}
	}
	for r, s := range h.spins {
		usage, known := h.since(h.last().At.Add(-quietFor))
		if !known || now.Sub(s.Since) < quietFor {
			continue // what it used before is no sign that it is over
		}
		s.After, s.Waits = usage.used, usage.waits()
		h.spins[r] = s
		if usage.above(s.before) < jump/2 && usage.runs-s.before.runs < manyRuns/2 {
			delete(h.spins, r)
			changes = append(changes, Change{Spin: s, Process: p, Over: true})
		}
	}
	slices.SortFunc(changes[from:], func(a, b Change) int { return cmp.Compare(a.Rule, b.Rule) })
	return changes
}

// All returns the spins that go on, by rule and PID.
func (w *Watcher) All() (all []Spin) {
	for _, h := range w.holders {
		all = slices.AppendSeq(all, maps.Values(h.spins))
	}
	slices.SortFunc(all, func(a, b Spin) int { return cmp.Or(cmp.Compare(a.Rule, b.Rule), a.PID-b.PID) })
	return all
}

// Retain forgets what is known of all rules but those: who changes a rule wants to
// see what it does now.
func (w *Watcher) Retain(in func(Rule) bool) {
	for _, h := range w.holders {
		maps.DeleteFunc(h.kills, func(r Rule, _ []sock.Instant) bool { return !in(r) })
		maps.DeleteFunc(h.spins, func(r Rule, _ Spin) bool { return !in(r) })
	}
}
