package daemon

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/group"
	"github.com/sockdog/sockdog/internal/holders"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// While nothing can be told, what fires is not piled up, for it will be said
// again; an end is said once, and kept.
func TestUpdatesAreBounded(t *testing.T) {
	p := alertPublisher{queue: queue[[]update]{arrived: sync.NewCond(new(sync.Mutex))}}
	fires, over := engine.Alert{Rule: "a"}, engine.Alert{Rule: "a", Ended: 1}
	for range 2 * mostUpdates {
		p.publish(update{alerts: []engine.Alert{fires}})
	}
	p.publish(update{alerts: []engine.Alert{fires, over, fires}})
	p.publish(update{rules: &rules.Set{}})
	if n := len(p.next); n != mostUpdates+2 {
		t.Fatalf("%d updates wait, want %d, an end and the rules", n, mostUpdates)
	}
	if diff := cmp.Diff([]engine.Alert{over}, p.next[mostUpdates].alerts); diff != "" {
		t.Errorf("after it was full (-want +got):\n%s", diff)
	}
	if p.next[mostUpdates+1].rules == nil {
		t.Error("the rules were dropped")
	}
}

// The holders are named by one walk, and the next one waits.
func TestSurvey(t *testing.T) {
	now := sock.Instant(time.Hour)
	walks := 0
	java, nginx := sock.Holder{PID: 7, Comm: "java"}, sock.Holder{PID: 12, Comm: "nginx"}
	held := map[uint32][]sock.Holder{1: {java, nginx}, 2: {java}, 3: {nginx}, 5: {{PID: 1, Comm: "a"}}, 6: {{PID: 2, Comm: "b"}}, 7: {{PID: 3, Comm: "c"}}}
	s := newSurvey(&Options{Now: func() sock.Instant { return now }, Holders: Holders{FindHolders: func(map[uint32]struct{}) (holders.Found, error) {
		walks++
		return holders.Found{Holders: held}, nil
	}}})
	expect := func(inodes []uint32, count int, begun bool, want string) {
		t.Helper()
		a := about(inodes, count)
		s.scan([]engine.Alert{a}, begun, nil)
		if got, _ := s.of(&a); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	expect([]uint32{0, 0}, 5, true, "no process: it has closed them, or not accepted them yet")
	if walks != 0 {
		t.Error("a walk for nobody")
	}
	expect([]uint32{1, 2, 3, 4}, 4, false, "java[7] 2, nginx[12] 1, unknown 1")
	expect([]uint32{1, 2}, 30, false, "java[7] 2 (of the 2 examined)")
	expect([]uint32{4}, 1, false, "unknown: no process that can be seen here")
	expect([]uint32{8}, 1, false, "not known yet")
	if walks != 1 {
		t.Errorf("%d walks at once", walks)
	}
	expect([]uint32{8}, 1, true, "unknown: no process that can be seen here")
	if walks != 2 {
		t.Errorf("%d walks, want one more for an alarm that is new", walks)
	}
	now = now.Add(surveyEvery)
	expect([]uint32{1, 2, 3, 5, 6, 7}, 6, false, "java[7] 2, a[1] 1, b[2] 1, 2 more processes")
	if walks != 3 {
		t.Errorf("%d walks after a while, want the third", walks)
	}
	nobodys := engine.Alert{Nobodys: true}
	if got, _ := s.of(&nobodys); got != "nobody: what is in time-wait belongs to no process" {
		t.Errorf("of timewait sockets: %q", got)
	}
}

// about is an alarm about sockets with these inodes.
func about(inodes []uint32, count int) engine.Alert {
	a := engine.Alert{Measured: group.Measured{Count: count}}
	for _, inode := range inodes {
		a.Examples = append(a.Examples, group.Example{Inode: inode})
	}
	return a
}

// What the engine knows of the holders needs no walk, and outlives them.
func TestSurveyOfWhatIsKnown(t *testing.T) {
	s := newSurvey(&Options{Now: func() sock.Instant { return 1 }, Holders: Holders{FindHolders: func(map[uint32]struct{}) (holders.Found, error) {
		t.Error("a walk for what is known")
		return holders.Found{}, nil
	}}})
	a := about([]uint32{1, 2}, 0)
	a.Peak = 2
	for i := range a.Examples {
		a.Examples[i].Holders = []sock.Holder{{PID: 7, Comm: "java"}}
	}
	s.scan([]engine.Alert{a}, true, nil)
	if got, _ := s.of(&a); got != "java[7] 2" {
		t.Errorf("%q", got)
	}
}

// A walk that fails says nothing, and the next one is believed.
func TestSurveyThatFails(t *testing.T) {
	now := sock.Instant(time.Hour)
	walks := 0
	s := newSurvey(&Options{Now: func() sock.Instant { return now }, Holders: Holders{FindHolders: func(map[uint32]struct{}) (holders.Found, error) {
		if walks++; walks == 1 {
			return holders.Found{}, errors.New("open /proc: too many open files")
		}
		return holders.Found{Holders: map[uint32][]sock.Holder{7: {{PID: 42, Comm: "leaky"}}}}, nil
	}}})
	a := about([]uint32{7}, 1)
	for _, want := range []string{"not known yet", "leaky[42] 1"} {
		s.scan([]engine.Alert{a}, false, nil)
		if got, _ := s.of(&a); got != want {
			t.Errorf("after %d walks: %q, want %q", walks, got, want)
		}
		now = now.Add(surveyEvery)
	}
}

// A process may call itself what it likes, and a chat may take that for a mention,
// a link, or a line of its own.
func TestHarmless(t *testing.T) {
	for comm, want := range map[string]string{
		"kworker/0:1-ev_x": "kworker?0?1-ev_x", "<!channel>\nDone": "?!channel??Done", "<http://x|k>": "?http???x?k?", "evil.io/x": "evil.io?x", "#general": "?general",
		"[a](b)*c*~d~`e`": "?a??b??c??d??e?", "\u202egnp": "?gnp", "@here": "?here", "größe": "größe",
	} {
		if got := harmless(comm); got != want {
			t.Errorf("%q became %q, want %q", comm, got, want)
		}
	}
}

// Of no socket there is no holder to look for, nor one that is unknown.
func TestSurveyOfNothing(t *testing.T) {
	s := newSurvey(&Options{Now: func() sock.Instant { return 0 }})
	var a engine.Alert
	if got, known := s.of(&a); got != "nobody: there is no socket" || !known {
		t.Errorf("%q, and known: %t", got, known)
	}
}

// While a walk through a large /proc takes its time, one alert waits for it and not
// each that follows.
func TestSurveyThatTakesLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		ends := make(chan struct{})
		s := newSurvey(&Options{Now: func() sock.Instant { return sock.Instant(time.Since(began)) }, Holders: Holders{FindHolders: func(map[uint32]struct{}) (holders.Found, error) {
			<-ends
			return holders.Found{Holders: map[uint32][]sock.Holder{1: {{PID: 7, Comm: "java"}}}}, nil
		}}})
		a := about([]uint32{1}, 1)
		for range 30 {
			s.scan([]engine.Alert{a}, false, nil)
		}
		if took := time.Since(began); took != surveyWait {
			t.Errorf("30 alerts waited %v for the names, want %v", took, surveyWait)
		}
		if got, known := s.of(&a); got != "not known yet" || known {
			t.Errorf("%q, and known: %t", got, known)
		}
		closing := make(chan struct{})
		close(closing)
		s.waited = false
		ending := time.Now()
		s.scan([]engine.Alert{a}, false, closing)
		if took := time.Since(ending); took > 0 {
			t.Errorf("told to end, an alert waits %v", took)
		}
		close(ends)
		synctest.Wait()
		s.scan([]engine.Alert{a}, false, nil)
		if got, known := s.of(&a); got != "java[7] 1" || !known {
			t.Errorf("%q, and known: %t", got, known)
		}
	})
}
