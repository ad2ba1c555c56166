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

// Recorder keeps the history. The zero value is empty.
type Recorder struct {
	end     time.Time // when the last step began; zero: there was no scan
	steps   int       // that there were: at most historyPoints
	sockets map[string]Series
}

// Record takes in the result of a scan. The last one in a step is its point.
func (r *Recorder) Record(at time.Time, sockets Sockets) {
	r.advance(at)
	for state, n := range sockets {
		if r.sockets[state] == nil {
			r.sockets[state] = make(Series, r.steps)
		}
		point := int64(n)
		r.sockets[state][r.steps-1] = &point
	}
}

// advance begins a new step if the time has come for one, with gaps for the steps
// that were left out.
func (r *Recorder) advance(at time.Time) {
	if r.end.IsZero() {
		r.end, r.sockets, r.steps = at, make(map[string]Series), 1
		return
	}
	steps := int(at.Sub(r.end) / historyStep)
	if steps <= 0 {
		return // also where a clock without a monotonic reading was set back
	}
	r.end = r.end.Add(time.Duration(steps) * historyStep)
	gaps := make(Series, min(steps, historyPoints))
	r.steps = min(r.steps+len(gaps), historyPoints)
	for state, series := range r.sockets {
		series = append(series, gaps...)
		r.sockets[state] = series[len(series)-r.steps:]
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
	h := History{End: at.Add(-at.Sub(r.end)), StepSeconds: historyStep.Seconds(), Sockets: make(map[string]Series, len(r.sockets))}
	for state, series := range r.sockets {
		h.Sockets[state] = slices.Clone(series)
	}
	return &h
}
