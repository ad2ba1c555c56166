package daemon

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// table is a socket table with so many sockets in CLOSE_WAIT.
type table struct {
	Scanner
	stuck, walks int
	err          error
}

func (t *table) Scan(_ sock.Query, each func(s *sock.Socket, got sock.Instant)) error {
	t.walks++
	for range t.stuck {
		each(&sock.Socket{Conn: ssfilter.Conn{State: ssfilter.CloseWait}}, 0)
	}
	return t.err
}

// gauges are what the namespace counts.
type gauges struct {
	Counters
	inSegs, timeWait, inUse uint64
}

func (g *gauges) Read() (sock.Counters, error) {
	return sock.Counters{HasInSegs: true, HasTimeWait: true, InSegs: g.inSegs, TimeWait: g.timeWait}, nil
}

func (g *gauges) InUse() (uint64, bool, error) { return g.inUse, true, nil }

// Counting costs no more than its share of the budget, however large the table is.
func TestSpacing(t *testing.T) {
	for _, test := range []struct {
		cost   time.Duration
		budget float64
		want   time.Duration
	}{
		{time.Millisecond, 0.01, stateCountEvery},
		{27 * time.Millisecond, 0.01, 90 * time.Second},
		{27 * time.Millisecond, 0.001, 15 * time.Minute},
		{200 * time.Millisecond, 1e-12, rarest},
	} {
		if got := spacing(test.cost, test.budget).Round(time.Millisecond); got != test.want {
			t.Errorf("%v after a count that took %v, of %v of a core; want %v", got, test.cost, test.budget, test.want)
		}
	}
}

// A state count scans the table only where something may have changed.
func TestTableCount(t *testing.T) {
	kernel, counts := &table{stuck: 2}, &gauges{inSegs: 10, timeWait: 7, inUse: 5}
	var r tableCount
	of := oneByOne
	count := func(walks int, want map[string]uint64) {
		t.Helper()
		got := r.count(of, kernel, counts)
		if kernel.walks != walks {
			t.Errorf("after %d walks, want %d", kernel.walks, walks)
		}
		for state, n := range want {
			if diff := cmp.Diff(n, got[state]); diff != "" {
				t.Errorf("%s (-want +got):\n%s", state, diff)
			}
		}
		if (got == nil) != (want == nil) {
			t.Errorf("%v, want %v", got, want)
		}
	}
	count(1, map[string]uint64{"close-wait": 2, "time-wait": 7, "established": 3, "last-ack": 0})
	// No segment arrived: the counters alone are read anew.
	counts.timeWait, counts.inUse, kernel.stuck = 4, 4, 3
	for range mostSkips {
		count(1, map[string]uint64{"close-wait": 2, "time-wait": 4, "established": 2})
	}
	count(2, map[string]uint64{"close-wait": 3, "established": 1})
	counts.inSegs++
	kernel.stuck = 1
	count(3, map[string]uint64{"close-wait": 1})
	// A walk that failed is no zero, and the next count walks again.
	counts.inSegs++
	kernel.err = errors.New("cut short")
	count(4, nil)
	kernel.err = nil
	count(5, map[string]uint64{"close-wait": 1})
	// Where few states can be counted for little, the others are absent.
	of = ssfilter.Of(ssfilter.CloseWait)
	count(6, map[string]uint64{"close-wait": 1, "time-wait": 4})
	if n := len(r.count(of, kernel, counts)); n != 2 {
		t.Errorf("%d states are counted, want two", n)
	}
	of = 0
	count(6, map[string]uint64{"time-wait": 4})
}
