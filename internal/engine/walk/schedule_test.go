package walk_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/engine/walk"
	"github.com/sockdog/sockdog/internal/sock"
)

const start = sock.Instant(1000 * time.Second)

// world carries out what a schedule begins: a walk takes a while, and reading a
// twentieth of that.
type world struct {
	t        *testing.T
	s        walk.Schedule
	now      sock.Instant
	cost     time.Duration
	partial  bool
	newFound bool // reading finds everything
	walks    int
	reads    int
	spent    time.Duration
	found    map[uint64]sock.Instant
	walked   sock.Instant // the end of the walk under way
	read     sock.Instant
	wants    map[sock.Instant][]uint64 // to come, and due 2 s later
}

func newWorld(t *testing.T, cost time.Duration) *world {
	return &world{t: t, s: walk.New(), now: start, cost: cost, found: make(map[uint64]sock.Instant), walked: sock.Never, read: sock.Never, wants: make(map[sock.Instant][]uint64)}
}

func want(cookie uint64) walk.Want { return walk.Want{Cookie: cookie, Inode: uint32(cookie)} }

// appear has sockets wanted, one each second.
func (w *world) appear(from, to uint64, first time.Duration) {
	for c := from; c <= to; c++ {
		at := start.Add(first + time.Duration(c-from)*time.Second)
		w.wants[at] = append(w.wants[at], c)
	}
}

// until has time pass.
func (w *world) until(d time.Duration) {
	w.t.Helper()
	for steps := 0; ; steps++ {
		if steps > 100_000 {
			w.t.Fatal("never at rest")
		}
		next := min(w.s.Wake(), w.walked, w.read)
		for at := range w.wants {
			next = min(next, at)
		}
		if next > start.Add(d) {
			w.now = start.Add(d)
			return
		}
		w.now = max(w.now, next)
		for _, c := range w.wants[w.now] {
			w.s.Want(want(c), w.now.Add(2*time.Second))
		}
		delete(w.wants, w.now)
		if w.now >= w.walked {
			w.walked = sock.Never
			for _, a := range w.s.Walked(!w.partial, w.cost, w.now) {
				w.answer(a)
			}
		}
		if w.now >= w.read {
			w.read = sock.Never
			tried := w.s.Read(w.cost/20, w.now)
			for _, a := range tried {
				if w.newFound {
					w.answer(a)
				}
			}
			w.s.Forget(func(a walk.Want) bool { return w.found[a.Cookie] != 0 })
		}
		walking, reading := w.s.Begin(w.now)
		if walking != nil {
			w.walks, w.spent, w.walked = w.walks+1, w.spent+w.cost, w.now.Add(w.cost)
		}
		if reading != nil {
			w.reads, w.spent, w.read = w.reads+1, w.spent+w.cost/20, w.now.Add(w.cost/20)
		}
	}
}

func (w *world) answer(a walk.Want) {
	if w.found[a.Cookie] == 0 {
		w.found[a.Cookie] = w.now
	}
}

// latest is how long after it appeared the last of some sockets had its holders found.
func (w *world) latest(from, to uint64, first time.Duration) (latest time.Duration) {
	w.t.Helper()
	for c := from; c <= to; c++ {
		if w.found[c] == 0 {
			w.t.Errorf("the holders of %d were not found", c)
		}
		latest = max(latest, w.found[c].Sub(start.Add(first+time.Duration(c-from)*time.Second)))
	}
	return latest
}

// How soon holders are found, and what that costs, by what a walk costs.
func TestSchedule(t *testing.T) {
	for _, test := range []struct {
		name              string
		cost              time.Duration
		newFound, partial bool
		within            time.Duration // of the second half of the sockets
		walks             int           // at most
		share             float64       // of a core, at most
	}{
		{name: "a small host", cost: 5 * time.Millisecond, within: 10 * time.Millisecond, walks: 60, share: 0.01},
		{name: "a large host, reading finds nothing", cost: time.Second, within: 6 * time.Second, walks: 15, share: 0.3},
		{name: "a large host, reading finds them", cost: time.Second, newFound: true, within: 60 * time.Millisecond, walks: 1, share: 0.25},
		{name: "a host of which a part can be read", cost: time.Second, partial: true, within: 12 * time.Second, walks: 7, share: 0.3},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, test.cost)
			w.newFound, w.partial = test.newFound, test.partial
			w.appear(1, 60, 0)
			w.until(2 * time.Minute)
			if latest := w.latest(30, 60, 29*time.Second); latest > test.within {
				t.Errorf("found %v after they appeared, want %v", latest, test.within)
			}
			if w.walks > test.walks || w.spent.Seconds()/60 > test.share {
				t.Errorf("%d walks, %d readings, of %v in all", w.walks, w.reads, w.spent)
			}
			if wake := w.s.Wake(); wake != sock.Never {
				t.Errorf("wakes %v after the start with nothing to do", wake.Sub(start))
			}
		})
	}
}

// A walk for what nobody waits for comes after others, delays none, and is as rare.
func TestUnhurried(t *testing.T) {
	w := newWorld(t, time.Second)
	w.s.Want(want(1), sock.Never)
	w.until(5 * time.Second)
	if w.found[1] != start.Add(time.Second) || w.reads > 0 {
		t.Errorf("found at %v, %d readings", w.found[1].Sub(start), w.reads)
	}
	w.s.Want(want(2), sock.Never)
	w.until(8 * time.Second)
	if w.walks != 1 {
		t.Errorf("%d walks within ten times the cost of one", w.walks)
	}
	w.s.Want(want(3), w.now.Add(2*time.Second))
	w.until(10 * time.Second)
	if at := start.Add(9*time.Second + 50*time.Millisecond); w.found[3] > at || w.found[2] > at {
		t.Errorf("found at %v, and the other at %v", w.found[3].Sub(start), w.found[2].Sub(start))
	}
}

// Walks that only counts want take the share of a core that they may, and are at most a
// minute apart; one for something else is for them, too.
func TestCounted(t *testing.T) {
	for _, test := range []struct {
		cost, gap time.Duration
		budget    float64
	}{
		{0, 0, 0.01},
		{5 * time.Millisecond, 500 * time.Millisecond, 0.01},
		{500 * time.Millisecond, 50 * time.Second, 0.01},
		{10 * time.Second, time.Minute, 0.01},
		{500 * time.Millisecond, 5 * time.Second, 0.1},
	} {
		s := walk.New()
		s.WantCounted(true, test.budget)
		if walking, _ := s.Begin(start); walking == nil {
			t.Fatalf("%+v: the first walk does not begin at once", test)
		}
		if s.Wake() != start.Add(30*time.Second) {
			t.Errorf("%+v: wakes %v after the start of the walk", test, s.Wake().Sub(start))
		}
		ended := start.Add(test.cost)
		s.Walked(true, test.cost, ended)
		if s.Wake() != sock.Never {
			t.Errorf("%+v: wakes for what was found", test)
		}
		s.WantCounted(true, test.budget)
		if gap := s.Wake().Sub(ended); gap != test.gap {
			t.Errorf("%+v: the next walk comes after %v, want %v", test, gap, test.gap)
		}
		s.Want(want(1), ended.Add(time.Second))
		walking, reading := s.Begin(ended)
		if reading != nil {
			s.Read(0, ended)
		}
		if walking == nil {
			walking, _ = s.Begin(ended.Add(10 * test.cost))
		}
		if walking == nil {
			t.Errorf("%+v: a socket that falls due waits for those that are counted", test)
		}
		s.Walked(true, test.cost, ended.Add(11*test.cost))
		if s.Wake() != sock.Never {
			t.Errorf("%+v: there is one more walk, for what was found", test)
		}
		if s.Renew() < time.Minute || s.RenewShown() < s.Renew() || s.Believed() < s.RenewShown()+s.Renew() || s.Recent() <= s.Fresh() || s.Fresh() <= s.Lead() {
			t.Errorf("%+v: renewed after %v and %v, believed for %v, recent for %v, fresh for %v, wanted %v ahead", test, s.Renew(), s.RenewShown(), s.Believed(), s.Recent(), s.Fresh(), s.Lead())
		}
	}
}

// A walk that does not end is told of, and no other is begun.
func TestHangs(t *testing.T) {
	w := newWorld(t, time.Hour)
	w.appear(1, 60, 0)
	w.until(29 * time.Second)
	if w.s.Hangs() {
		t.Error("taken for one that hangs after 29 s")
	}
	w.until(10 * time.Minute)
	if !w.s.Hangs() || w.walks != 1 || w.s.Took(w.now) < 9*time.Minute {
		t.Errorf("hangs: %t, after %v; %d walks", w.s.Hangs(), w.s.Took(w.now), w.walks)
	}
	w.walked = w.now
	w.cost = time.Millisecond
	w.until(11 * time.Minute)
	if w.s.Hangs() || w.walks != 2 {
		t.Errorf("it has ended, and hangs: %t; %d walks", w.s.Hangs(), w.walks)
	}
	if diff := cmp.Diff(30*time.Second, w.s.Patience()-20*time.Millisecond); diff != "" {
		t.Error(diff)
	}
}

// Before the first walk it counts what was examined, and after that what was read.
func TestComplete(t *testing.T) {
	s := walk.New()
	s.Examined(false)
	if s.Complete() {
		t.Error("not all can be read, and walks are taken for complete")
	}
	s.Want(want(1), start)
	s.Begin(start)
	s.Walked(true, time.Millisecond, start)
	s.Examined(false)
	if !s.Complete() {
		t.Error("a walk that read everything is not believed")
	}
}

// Whatever comes: at most one walk and one reading are under way, what is wanted is
// found in the end, and the schedule comes to rest.
func TestAnyOrder(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		w := newWorld(t, time.Duration(rng.Int64N(int64(3*time.Second))))
		w.newFound, w.partial = rng.IntN(2) == 0, rng.IntN(2) == 0
		n := 1 + rng.Uint64N(200)
		for c := range n {
			at := start.Add(time.Duration(rng.Int64N(int64(time.Minute))))
			w.wants[at] = append(w.wants[at], 1+c)
		}
		for d := time.Duration(0); d < time.Minute; d += 7 * time.Second {
			w.until(d)
			w.s.Want(want(1000+uint64(d)), sock.Never)
			w.cost = time.Duration(rng.Int64N(int64(3 * time.Second)))
		}
		w.until(time.Hour)
		for c := range n {
			if w.found[1+c] == 0 {
				t.Errorf("seed %d: the holders of %d were not found", seed, 1+c)
			}
		}
		if w.s.Wake() != sock.Never {
			t.Errorf("seed %d: it does not come to rest", seed)
		}
	}
}
