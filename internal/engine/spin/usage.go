package spin

import (
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
)

const (
	// jump is what usage rises by, in cores, that is no accident.
	jump = 0.5
	// A program that sleeps a moment between its loops uses less. It is woken manyRuns times
	// a second more often, and uses littleJump more cores for that.
	manyRuns   = 10_000
	littleJump = 0.1
	// jumpWithin is how long after a kill a jump is put down to it, and for how long
	// before it the usage counts that was normal.
	jumpWithin = 10 * time.Second
	// jumpSurely is how long usage must be that much above the highest of before. What
	// a program does about an error once is over by then.
	jumpSurely = 2 * time.Second
	// quietFor is how long usage must be down before the holder's sockets are killed
	// again; half of the jump must be gone.
	quietFor = 5 * time.Second
	// leastShare is the least share of what a process wants that its CPU time is scaled
	// up from: below it, the ticks that the kernel counts in would decide.
	leastShare = 0.1
	// kept is for how long samples are kept: for the windows before and after.
	kept = 2*jumpWithin + 2*jumpSurely
)

// history holds the last samples of a process, oldest first.
type history []Usage

func (h history) last() Usage { return h[len(h)-1] }

// take adds a sample, and forgets what is too old to matter.
func (h *history) take(s Usage) {
	if len(*h) > 0 && s.At <= h.last().At {
		return
	}
	*h = append(*h, s)
	old := 0
	for old < len(*h)-2 && s.At.Sub((*h)[old+1].At) > kept {
		old++
	}
	*h = slices.Delete(*h, 0, old)
}

// load is what a process uses of CPU, in cores, and what it wants: that, and what it
// could have used but for others. Where the machine is busy, or a cgroup has a quota,
// a program that spins gets less than it wants.
type load struct {
	used, wanted float64
	runs         float64 // a second
}

// loadBetween is the load from one sample to another.
func loadBetween(from, to Usage) load {
	lived := float64(to.At.Sub(from.At))
	used := float64(to.CPU-from.CPU) / lived
	var runs float64
	if from.Runs >= 0 && to.Runs >= 0 {
		runs = max(0, float64(to.Runs-from.Runs)*float64(time.Second)/lived)
	}
	if from.Waited < 0 || to.Waited < 0 {
		return load{used, used, runs}
	}
	// Threads that end take with them what they have waited.
	return load{used, used + max(0, float64(to.Waited-from.Waited)/lived), runs}
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

// jumps reports whether the load is so much higher than before that it is no accident.
func (l load) jumps(before load) bool {
	above := l.above(before)
	return above >= jump || above >= littleJump && l.runs-before.runs >= manyRuns
}

// since is the load from an instant, or a little before it, to the last sample;
// known is false where that was not sampled yet.
func (h history) since(at sock.Instant) (l load, known bool) {
	for i := len(h) - 2; i >= 0; i-- {
		if h[i].At <= at {
			return loadBetween(h[i], h.last()), true
		}
	}
	return load{}, false
}

// jumped reports whether the load is so much higher since a kill that it is no
// accident: for a short time higher than the highest of before, or for a long time
// higher than the mean of before.
func (h history) jumped(kill sock.Instant) (before, after load, is bool) {
	mean, highest := h.before(kill)
	last := h.last().At
	short := last.Add(-jumpSurely)
	sampled := slices.ContainsFunc(h, func(s Usage) bool { return kill <= s.At && s.At <= short })
	if after, known := h.since(short); known && sampled && after.jumps(highest) {
		return highest, after, true
	}
	if last.Sub(kill) < jumpWithin {
		return load{}, load{}, false
	}
	after, known := h.since(last.Add(-jumpWithin))
	return mean, after, known && after.jumps(mean)
}

// before is the load before a kill, and the highest in a second of that. Where it
// was not sampled for long enough, it is what the process used in all its life.
func (h history) before(kill sock.Instant) (mean, highest load) {
	var then history
	for _, s := range h {
		if kill.Sub(s.At) >= 0 && kill.Sub(s.At) <= jumpWithin+sampleEvery {
			then = append(then, s)
		}
	}
	if len(then) == 0 || then.last().At.Sub(then[0].At) < sampleEvery/2 {
		first := h[0]
		first.Lived = max(first.Lived, sampleEvery)
		born := Usage{At: first.At.Add(-first.Lived), Waited: min(first.Waited, 0), Runs: min(first.Runs, 0)}
		mean = loadBetween(born, first)
		return mean, mean
	}
	mean = loadBetween(then[0], then.last())
	highest = mean
	for i, from := range then {
		if to := slices.IndexFunc(then[i:], func(s Usage) bool { return s.At.Sub(from.At) >= sampleEvery }); to >= 0 {
			l := loadBetween(from, then[i+to])
			highest = load{max(highest.used, l.used), max(highest.wanted, l.wanted), max(highest.runs, l.runs)}
		}
	}
	return mean, highest
}
