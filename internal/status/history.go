package status

import (
	"slices"
	"time"
)

// The history is of the last hour, one point for each step.
const (
	historyStep   = 15 * time.Second
	historyPoints = int(time.Hour / historyStep)
)

// History is the sockets by state over the last hour.
type History struct {
	End         time.Time         `json:"end"` // when the last step began
	StepSeconds float64           `json:"step_seconds"`
	Sockets     map[string]Series `json:"sockets"` // by state; all of one length
}

// Series is numbers of sockets, oldest first; nil where no scan was made: that is not
// zero, and null in JSON.
type Series []*int64

// gap is what a ring holds where no scan was made.
const gap = -1

// Recorder keeps the history, in a ring for each state. The zero value is empty.
type Recorder struct {
	end   time.Time // when the last step began; zero: there was no scan
	last  int       // the place of that step in each ring
	steps int       // that there were: at most historyPoints
	rings map[string]*[historyPoints]int64
}

// Record takes in the result of a scan. The last one in a step is its point.
func (r *Recorder) Record(at time.Time, sockets Sockets) {
	r.advance(at)
	for state, n := range sockets {
		ring := r.rings[state]
		if ring == nil {
			ring = new([historyPoints]int64)
			for i := range ring {
				ring[i] = gap
			}
			r.rings[state] = ring
		}
		ring[r.last] = int64(n)
	}
}

// advance begins a new step if the time has come for one, with gaps for the steps
// that were left out.
func (r *Recorder) advance(at time.Time) {
	if r.end.IsZero() {
		r.end, r.rings, r.steps = at, make(map[string]*[historyPoints]int64), 1
		return
	}
	steps := int64(at.Sub(r.end) / historyStep)
	if steps <= 0 {
		return // also where a clock without a monotonic reading was set back
	}
	r.end = r.end.Add(time.Duration(steps) * historyStep)
	r.steps = int(min(int64(r.steps)+steps, int64(historyPoints)))
	for range min(steps, int64(historyPoints)) {
		r.last = (r.last + 1) % historyPoints
		for _, ring := range r.rings {
			ring[r.last] = gap
		}
	}
}

// History returns the hour that ends at an instant, or what there is of it since the
// first scan, as a value of its own; nil if there was no scan.
func (r *Recorder) History(at time.Time) *History {
	if r.end.IsZero() {
		return nil
	}
	r.advance(at)
	// Of the wall clock, only what it says now counts: it may have been set.
	h := History{End: at.Add(-at.Sub(r.end)), StepSeconds: historyStep.Seconds(), Sockets: make(map[string]Series, len(r.rings))}
	for state, ring := range r.rings {
		points := slices.Concat(ring[r.last+1:], ring[:r.last+1])[historyPoints-r.steps:]
		series := make(Series, len(points))
		for i := range points {
			if points[i] != gap {
				series[i] = &points[i]
			}
		}
		h.Sockets[state] = series
	}
	return &h
}
