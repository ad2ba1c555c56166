package status

import (
	"slices"
	"time"
)

// Histogram counts durations.
type Histogram struct {
	Bounds []float64 `json:"bounds"` // seconds, growing; the last bucket has none
	Counts []uint64  `json:"counts"` // one for each bucket, one more than there are bounds
	Sum    float64   `json:"sum"`    // seconds
}

// NewHistogram makes an empty one with these upper bounds.
func NewHistogram(bounds ...time.Duration) Histogram {
	h := Histogram{Bounds: make([]float64, len(bounds)), Counts: make([]uint64, len(bounds)+1)}
	for i, b := range bounds {
		h.Bounds[i] = b.Seconds()
	}
	return h
}

// Observe counts one duration.
func (h *Histogram) Observe(d time.Duration) {
	// A bound belongs to the bucket under it, as in Prometheus.
	i, _ := slices.BinarySearch(h.Bounds, d.Seconds())
	h.Counts[i]++
	h.Sum += d.Seconds()
}

// Clone is what h holds now, for a Status.
func (h *Histogram) Clone() Histogram {
	return Histogram{Bounds: h.Bounds, Counts: slices.Clone(h.Counts), Sum: h.Sum}
}

// Total is how many durations were counted.
func (h *Histogram) Total() uint64 {
	var n uint64
	for _, c := range h.Counts {
		n += c
	}
	return n
}

// NewLateness is for the lateness of actions: 100 ms is what is promised.
func NewLateness() Histogram {
	return NewHistogram(time.Millisecond, 5*time.Millisecond, 10*time.Millisecond, 25*time.Millisecond, 50*time.Millisecond,
		100*time.Millisecond, 250*time.Millisecond, time.Second, 5*time.Second, 30*time.Second)
}

// NewScanDurations is for the duration of scans: from the microseconds of a small
// table of its own to a walk of the tables of a large host.
func NewScanDurations() Histogram {
	return NewHistogram(100*time.Microsecond, 500*time.Microsecond, time.Millisecond, 5*time.Millisecond, 10*time.Millisecond,
		25*time.Millisecond, 50*time.Millisecond, 100*time.Millisecond, 250*time.Millisecond, time.Second, 5*time.Second)
}
