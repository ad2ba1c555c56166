package status

import (
	"encoding/json"
	"slices"
	"strconv"
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

// Series is numbers of sockets, oldest first.
type Series []int64

// Gap stands in a Series where no reading was made. It is null in JSON: that is
// not zero.
const Gap = -1

// MarshalJSON writes an array of numbers and nulls.
func (s Series) MarshalJSON() ([]byte, error) {
	text := make([]byte, 0, 8*len(s)+2)
	text = append(text, '[')
	for i, n := range s {
		if i > 0 {
			text = append(text, ',')
		}
		if n == Gap {
			text = append(text, "null"...)
		} else {
			text = strconv.AppendInt(text, n, 10)
		}
	}
	return append(text, ']'), nil
}

// UnmarshalJSON reads an array of numbers and nulls.
func (s *Series) UnmarshalJSON(text []byte) error {
	var numbers []*int64
	if err := json.Unmarshal(text, &numbers); err != nil {
		return err
	}
	*s = make(Series, len(numbers))
	for i, n := range numbers {
		(*s)[i] = Gap
		if n != nil {
			(*s)[i] = *n
		}
	}
	return nil
}

// Recorder keeps the history, in a ring for each state. The zero value is empty.
type Recorder struct {
	end   time.Time // when the last step began; zero: nothing was read
	last  int       // the place of that step in each ring
	steps int       // that there were: at most historyPoints
	rings map[string]*[historyPoints]int64
}

// Record takes in a reading made at an instant. The last one in a step is its
// point.
func (r *Recorder) Record(at time.Time, sockets Sockets) {
	r.advance(at)
	for state, n := range sockets {
		ring := r.rings[state]
		if ring == nil {
			ring = gaps()
			r.rings[state] = ring
		}
		ring[r.last] = int64(n)
	}
}

// advance begins a new step where the time has come for one, with gaps for every
// step that was left out.
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
			ring[r.last] = Gap
		}
	}
}

func gaps() *[historyPoints]int64 {
	var ring [historyPoints]int64
	for i := range ring {
		ring[i] = Gap
	}
	return &ring
}

// History is the hour that ends at an instant, or what there is of it since the first
// reading, as a value of its own; nil where nothing was read.
func (r *Recorder) History(at time.Time) *History {
	if r.end.IsZero() {
		return nil
	}
	r.advance(at)
	// Of the wall clock, only what it says now counts: it may have been set.
	h := History{End: at.Add(-at.Sub(r.end)), StepSeconds: historyStep.Seconds(), Sockets: make(map[string]Series, len(r.rings))}
	for state, ring := range r.rings {
		h.Sockets[state] = slices.Concat(ring[r.last+1:], ring[:r.last+1])[historyPoints-r.steps:]
	}
	return &h
}
