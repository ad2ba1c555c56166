package daemon

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/owner"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// While nothing can be told, what fires is not piled up, for it will be said
// again; an end is said once, and kept.
func TestTellerIsBounded(t *testing.T) {
	teller := &teller{arrived: make(chan struct{}, 1)}
	fires, over := engine.Alarm{Rule: "a"}, engine.Alarm{Rule: "a", Ended: 1}
	for range 2 * mostDispatches {
		teller.post(dispatch{alarms: []engine.Alarm{fires}})
	}
	teller.post(dispatch{alarms: []engine.Alarm{fires, over, fires}})
	teller.post(dispatch{rules: &rules.Set{}})
	if n := len(teller.box); n != mostDispatches+2 {
		t.Fatalf("%d dispatches wait, want %d, an end and the rules", n, mostDispatches)
	}
	if diff := cmp.Diff([]engine.Alarm{over}, teller.box[mostDispatches].alarms); diff != "" {
		t.Errorf("after it was full (-want +got):\n%s", diff)
	}
	if teller.box[mostDispatches+1].rules == nil {
		t.Error("the rules were dropped")
	}
}

func TestDeeds(t *testing.T) {
	tests := []struct {
		name        string
		all, before deeds
		want        string
	}{
		{"a rule that only alerts", nil, nil, "nothing, the rule only alerts"},
		{"nothing yet", deeds{}, deeds{}, "nothing yet"},
		{"only before", deeds{engine.Done: 3}, deeds{engine.Done: 3}, "nothing yet"},
		{"since", deeds{engine.Done: 5, engine.Held: 9, engine.Gone: 1}, deeds{engine.Done: 3, engine.Gone: 1}, "kill: 2 done, 9 held, by this rule since the alert began"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := test.all.since(test.before); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

// The holders are named by one walk, and the next one waits.
func TestSurvey(t *testing.T) {
	now := sock.Instant(time.Hour)
	walks := 0
	java, nginx := sock.Owner{PID: 7, Comm: "java"}, sock.Owner{PID: 12, Comm: "nginx"}
	held := map[uint32][]sock.Owner{1: {java, nginx}, 2: {java}, 3: {nginx}, 5: {{PID: 1, Comm: "a"}}, 6: {{PID: 2, Comm: "b"}}, 7: {{PID: 3, Comm: "c"}}}
	s := newSurvey(&Options{Now: func() sock.Instant { return now }, FindOwners: func(map[uint32]struct{}) (owner.Found, error) {
		walks++
		return owner.Found{Owners: held}, nil
	}})
	expect := func(inodes []uint32, count int, want string) {
		t.Helper()
		s.look(inodes)
		if got := s.of(&engine.Alarm{Inodes: inodes, Measured: engine.Measured{Count: count}}); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	expect(nil, 5, "unknown, or nobody: what is in time-wait belongs to no process")
	if walks != 0 {
		t.Error("a walk for nobody")
	}
	expect([]uint32{1, 2, 3, 4}, 4, "java[7] 2, nginx[12] 1, unknown 1")
	expect([]uint32{1, 2}, 30, "java[7] 2 (of 2 that were looked at)")
	expect([]uint32{4}, 1, "unknown: no process that can be seen here")
	expect([]uint32{8}, 1, "not known yet")
	if walks != 1 {
		t.Errorf("%d walks at once", walks)
	}
	now = now.Add(surveyEvery)
	expect([]uint32{1, 2, 3, 5, 6, 7}, 6, "java[7] 2, a[1] 1, b[2] 1, 2 more processes")
	if walks != 2 {
		t.Errorf("%d walks after a while, want the second", walks)
	}
}

// While a walk through a large /proc takes its time, one alert waits for it and not
// each that follows.
func TestSurveyThatTakesLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		ends := make(chan struct{})
		s := newSurvey(&Options{Now: func() sock.Instant { return sock.Instant(time.Since(began)) }, FindOwners: func(map[uint32]struct{}) (owner.Found, error) {
			<-ends
			return owner.Found{Owners: map[uint32][]sock.Owner{1: {{PID: 7, Comm: "java"}}}}, nil
		}})
		for range 30 {
			s.look([]uint32{1})
		}
		if took := time.Since(began); took != surveyWait {
			t.Errorf("30 alerts waited %v for the names, want %v", took, surveyWait)
		}
		a := &engine.Alarm{Inodes: []uint32{1}, Measured: engine.Measured{Count: 1}}
		if got, want := s.of(a), "not known yet"; got != want {
			t.Errorf("%q, want %q", got, want)
		}
		close(ends)
		synctest.Wait()
		s.look([]uint32{1})
		if got, want := s.of(a), "java[7] 1"; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	})
}
