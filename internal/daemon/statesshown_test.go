package daemon

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/status"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// What is shown of the sockets by state does not contradict what a later scan has seen, and says
// since when it is so.
func TestStatesShown(t *testing.T) {
	var s statesShown
	start := time.Now()
	after := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	see := func(seconds, part int, all bool, n int) {
		s.see(engine.SeenStates{Part: part, All: all, States: map[ssfilter.State]int{ssfilter.CloseWait: n}}, after(seconds))
	}
	want := func(what string, closeWait int, at int) {
		t.Helper()
		got, since := s.now()
		n, known := got["close-wait"]
		if known != (closeWait >= 0) || known && n != uint64(closeWait) {
			t.Errorf("%s: %v, want %d in close-wait", what, got, closeWait)
		}
		if wanted := after(at); at < 0 && !since.IsZero() || at >= 0 && !since.Equal(wanted) {
			t.Errorf("%s: since %v, want %d s", what, since.Sub(start), at)
		}
	}
	want("at the start", -1, -1)
	see(1, 1, false, 4)
	want("some of the sockets tell nothing of all", -1, -1)
	s.count(status.Sockets{"close-wait": 0, "time-wait": 7}, after(2))
	want("what was seen before is counted", 0, 2)
	see(3, 1, false, 4)
	want("there are four at least", 4, 2)
	see(4, 2, false, 1)
	want("of other rules there are fewer", 4, 2)
	see(5, 1, false, 0)
	want("the four have gone", 1, 2)
	see(6, 3, true, 3)
	want("all were seen", 3, 2)
	if got, _ := s.now(); !cmp.Equal(got, status.Sockets{"close-wait": 3, "time-wait": 7}) || s.counted["close-wait"] != 0 {
		t.Errorf("shown: %v, counted: %v", got, s.counted)
	}
	s.count(nil, time.Time{})
	want("a count has failed since", 3, 6)
	s.count(status.Sockets{"time-wait": 7}, after(7))
	want("it is not counted, and nothing has seen it since", -1, 7)
	see(8, 1, true, 2)
	want("a scan has seen all", 2, 7)
}
