package status

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// gap stands for a step without a scan.
const gap = -1

func series(points ...int64) Series {
	s := make(Series, len(points))
	for i := range points {
		if points[i] != gap {
			s[i] = &points[i]
		}
	}
	return s
}

var t0 = time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)

func TestHistory(t *testing.T) {
	at := func(seconds int) time.Time { return t0.Add(time.Duration(seconds) * time.Second) }
	type reading struct {
		seconds int
		sockets Sockets
	}
	one := func(seconds int, n uint64) reading { return reading{seconds, Sockets{"close-wait": n}} }
	for _, test := range []struct {
		name     string
		readings []reading
		now      int
		want     Series // close-wait's, from the first reading on
		end      int
	}{
		{"one reading", []reading{one(0, 7)}, 0, series(7), 0},
		{"zero is no gap", []reading{one(0, 0)}, 1, series(0), 0},
		{"the last reading of a step counts", []reading{one(0, 7), one(14, 8)}, 14, series(8), 0},
		{"each step has a point", []reading{one(0, 7), one(15, 8), one(30, 9)}, 30, series(7, 8, 9), 30},
		{"a step without a reading", []reading{one(0, 7), one(30, 9)}, 30, series(7, gap, 9), 30},
		{"no reading for a while", []reading{one(0, 7)}, 50, series(7, gap, gap, gap), 45},
		{"another state was read", []reading{one(0, 7), {15, Sockets{"time-wait": 1}}}, 15, series(7, gap), 15},
		{"a clock that was set back", []reading{one(60, 7), one(0, 8)}, 0, series(8), 60},
	} {
		t.Run(test.name, func(t *testing.T) {
			var r Recorder
			for _, x := range test.readings {
				r.Record(at(x.seconds), x.sockets)
			}
			h := r.History(at(test.now))
			if diff := cmp.Diff(test.want, h.Sockets["close-wait"]); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if !h.End.Equal(at(test.end)) {
				t.Errorf("it ends at %v, want %v", h.End, at(test.end))
			}
		})
	}
}

func TestHistoryOfNothing(t *testing.T) {
	var r Recorder
	if h := r.History(t0); h != nil {
		t.Errorf("%v", h)
	}
}

// A history that was handed out does not change.
func TestHistoryStands(t *testing.T) {
	var r Recorder
	r.Record(t0, Sockets{"close-wait": 7})
	h := r.History(t0)
	before := slices.Clone(h.Sockets["close-wait"])
	r.Record(t0.Add(time.Second), Sockets{"close-wait": 8})
	r.Record(t0.Add(time.Hour), Sockets{"close-wait": 9})
	if diff := cmp.Diff(before, h.Sockets["close-wait"]); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
}

// The history agrees with all the readings ever made.
func TestHistoryAsPlainList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var r Recorder
		all := map[int]int64{} // by step since t0
		at := t0
		for range rapid.IntRange(1, 40).Draw(t, "readings") {
			n := rapid.Int64Range(0, 1000).Draw(t, "sockets")
			r.Record(at, Sockets{"close-wait": uint64(n)})
			all[int(at.Sub(t0)/historyStep)] = n
			at = at.Add(time.Duration(rapid.OneOf(rapid.IntRange(0, 40), rapid.IntRange(0, 5000)).Draw(t, "seconds")) * time.Second)
		}
		step := int(at.Sub(t0) / historyStep)
		want := make(Series, min(step+1, historyPoints))
		for i := range want {
			n, ok := all[step-(len(want)-1-i)]
			if ok {
				want[i] = &n
			}
		}
		if diff := cmp.Diff(want, r.History(at).Sockets["close-wait"]); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func TestSeriesJSON(t *testing.T) {
	for text, s := range map[string]Series{`[]`: series(), `[0,null,20000]`: series(0, gap, 20000), `[null]`: series(gap)} {
		got, err := json.Marshal(s)
		if err != nil || string(got) != text {
			t.Errorf("%s, %v, want %s", got, err, text)
		}
		var back Series
		if err := json.Unmarshal([]byte(text), &back); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(s, back); diff != "" {
			t.Errorf("read again (-want +got):\n%s", diff)
		}
	}
	for _, bad := range []string{`{}`, `["a"]`, `[1.5]`} {
		if err := json.Unmarshal([]byte(bad), new(Series)); err == nil {
			t.Errorf("%s was read", bad)
		}
	}
}

func TestHistogram(t *testing.T) {
	h := NewHistogram(time.Millisecond, 100*time.Millisecond)
	for _, d := range []time.Duration{0, time.Millisecond, time.Millisecond + 1, 100 * time.Millisecond, time.Hour} {
		h.Observe(d)
	}
	before := h.Clone()
	h.Observe(0)
	want := Histogram{Bounds: []float64{0.001, 0.1}, Counts: []uint64{2, 2, 1}, Sum: 3600.102000001}
	if diff := cmp.Diff(want, before); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if h.Total() != 6 {
		t.Errorf("%d in all, want 6", h.Total())
	}
}

// The loop publishes one of these a second.
func BenchmarkHistory(b *testing.B) {
	var r Recorder
	sockets := Sockets{}
	for _, state := range States {
		sockets[state] = 100
	}
	at := t0
	b.ReportAllocs()
	for b.Loop() {
		at = at.Add(time.Second)
		r.Record(at, sockets)
		r.History(at)
	}
}
