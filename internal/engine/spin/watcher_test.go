package spin_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/engine/spin"
	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/internal/sock"
)

const (
	start  = sock.Instant(1000 * time.Second)
	second = time.Second
)

// world is one program, sockets of which a rule wants to kill, and time.
type world struct {
	w       spin.Watcher
	now     sock.Instant
	program sim.Program
	events  map[sock.Instant]func()
	kills   int
	samples int
	begun   int // spins
	ended   int
}

var (
	held = []sock.Holder{{PID: 101, Start: 7, Comm: "prog"}}
	rule = spin.Rule{Name: "r", Sum: "1"}
)

func newWorld(cores float64) *world {
	return &world{w: spin.New(), now: start, program: sim.Program{Cores: cores}, events: make(map[sock.Instant]func())}
}

// gets has the program use so many cores from now on, and wait for some more.
func (w *world) gets(cores, waits float64) { w.program.Gets(cores, waits, w.now) }

func (w *world) later(d time.Duration, do func()) { w.events[w.now.Add(d)] = do }

// leaks has a socket fall due each second, which is killed unless the program spins;
// what to do at the first kill.
func (w *world) leaks(from, to time.Duration, first func()) {
	for at := from; at < to; at += second {
		w.later(at, func() {
			if w.w.Spins(held, rule) {
				w.w.Watch(held, w.now) // it asks again
				return
			}
			w.kills++
			w.w.Killed(held, rule, w.now)
			if w.kills == 1 && first != nil {
				first()
			}
		})
	}
}

// until has time pass.
func (w *world) until(d time.Duration) {
	for {
		next := w.w.Wake()
		for at := range w.events {
			next = min(next, at)
		}
		if next > start.Add(d) {
			w.now = start.Add(d)
			return
		}
		w.now = max(w.now, next)
		if do := w.events[w.now]; do != nil {
			delete(w.events, w.now)
			do()
		}
		due := w.w.Due(w.now)
		if due == nil {
			continue
		}
		var in []spin.Usage
		for _, p := range due {
			w.samples++
			if !w.program.Unreadable {
				in = append(in, spin.Usage{Process: p, At: w.now, CPU: w.program.Used(w.now), Waited: w.program.WaitedUntil(w.now), Lived: w.now.Sub(0)})
			}
		}
		for _, c := range w.w.Take(in, w.now) {
			if c.Over {
				w.ended++
			} else {
				w.begun++
			}
		}
	}
}

// What the usage of a program is, and whether a rule goes on killing its sockets.
func TestJump(t *testing.T) {
	tests := []struct {
		name   string
		before float64
		after  func(w *world) // the first kill, 8 s after the start
		stops  bool
	}{
		{"busy before, and no busier after", 0.9, nil, false},
		{"quiet before and after", 0.01, nil, false},
		{"a spin", 0.01, func(w *world) { w.gets(0.9, 0) }, true},
		{"a spin that only just counts", 0.01, func(w *world) { w.gets(0.53, 0) }, true},
		{"busy before, and a thread more after", 0.9, func(w *world) { w.gets(1.9, 0) }, true},
		{"several cores before, and a bit more after", 6.8, func(w *world) { w.gets(7.1, 0) }, false},
		{"a bit busier", 0.1, func(w *world) { w.gets(0.5, 0) }, false},
		{"an error handled for a second", 0.01, func(w *world) {
			w.gets(1, 0)
			w.later(second-1, func() { w.gets(0.01, 0) })
		}, false},
		{"a spin that gets a third of what it wants", 0.01, func(w *world) { w.gets(0.3, 0.6) }, true},
		{"a spin of four threads that get a core together", 0.1, func(w *world) { w.gets(0.4, 3.6) }, true},
		{"a spin under a quota of a tenth of a core", 0.01, func(w *world) { w.gets(0.1, 0.9) }, true},
		{"no busier, on a machine that is", 0.4, func(w *world) { w.gets(0.4, 2) }, false},
		{"a bit busier, on a machine that is", 0.4, func(w *world) { w.gets(0.45, 1.5) }, false},
		{"quiet, on a machine on which it waits for long", 0.01, func(w *world) { w.gets(0.03, 2) }, false},
		{"less than it wants before and after", 0.01, func(w *world) { w.gets(0.3, 0.1) }, false},
		{"a spin that begins late", 0.01, func(w *world) { w.later(6*second-1, func() { w.gets(0.9, 0) }) }, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(test.before)
			w.w.Watch(held, w.now)
			w.leaks(8*second, 38*second, func() {
				if test.after != nil {
					test.after(w)
				}
			})
			w.until(60 * second)
			if stopped := w.kills < 30; stopped != test.stops || (w.begun == 1) != test.stops {
				t.Errorf("%d of 30 killed, %d spins", w.kills, w.begun)
			}
		})
	}
}

// A spin is not over because the program gets less CPU than before, and over once it
// wants no more, however long it waits for that.
func TestSpinOnBusyMachine(t *testing.T) {
	w := newWorld(0.002)
	w.w.Watch(held, w.now)
	w.leaks(8*second, 48*second, func() { w.gets(0.9, 0) })
	w.until(30 * second)
	w.gets(0.1, 0.8)
	w.until(60 * second)
	if w.begun != 1 || w.ended != 0 {
		t.Errorf("%d spins, %d over", w.begun, w.ended)
	}
	if all := w.w.All(); len(all) != 1 || all[0].After > 0.11 || all[0].Waits < 0.79 {
		t.Errorf("shown: %+v", all)
	}
	w.gets(0.01, 0.8)
	w.until(70 * second)
	if w.ended != 1 {
		t.Error("it goes on though the program is quiet")
	}
}

// A spin is not over because its usage cannot be read for a while, as where the host
// has no file descriptors left.
func TestSpinUnreadable(t *testing.T) {
	w := newWorld(0.002)
	w.w.Watch(held, w.now)
	w.leaks(8*second, 80*second, func() { w.gets(0.9, 0) })
	w.until(30 * second)
	n := w.kills
	w.program.Unreadable = true
	w.until(45 * second)
	if w.kills != n || len(w.w.All()) != 1 {
		t.Errorf("%d more killed; shown: %+v", w.kills-n, w.w.All())
	}
	w.program.Unreadable = false
	w.gets(0.002, 0)
	w.until(60 * second)
	if w.ended != 1 || w.kills <= n {
		t.Errorf("%d spins over, %d more killed, once it was quiet", w.ended, w.kills-n)
	}
}

// A spin is not over because the time before it was quiet.
func TestSpinLasts(t *testing.T) {
	for tenth := range 10 {
		w := newWorld(0.002)
		w.later(2*second+time.Duration(tenth)*second/10, func() { w.w.Watch(held, w.now) })
		w.leaks(8*second, 38*second, func() { w.gets(0.51, 0) })
		w.until(time.Minute)
		if w.begun != 1 || w.ended != 0 {
			t.Errorf("sampled %d tenths of a second later: %d spins, %d over", tenth, w.begun, w.ended)
		}
	}
}

// A program with peaks of its own is not taken for one that spins: the highest of
// before is what counts for a short time.
func TestPeaksBefore(t *testing.T) {
	w := newWorld(0.05)
	w.w.Watch(held, w.now)
	for s := range 30 {
		w.later(time.Duration(s)*2*second+1, func() { w.gets([]float64{0.8, 0.05}[s%2], 0) })
	}
	w.leaks(9*second, 39*second, nil)
	w.until(50 * second)
	if w.kills != 30 || w.begun > 0 {
		t.Errorf("%d of 30 killed, %d spins", w.kills, w.begun)
	}
}

// Nobody is sampled for ever.
func TestForgetsTheQuiet(t *testing.T) {
	w := newWorld(0.01)
	w.leaks(8*second, 13*second, nil)
	w.until(30 * second)
	if w.samples == 0 {
		t.Fatal("no sample was taken")
	}
	w.until(3 * time.Minute)
	n := w.samples
	w.until(10 * time.Minute)
	if w.samples != n {
		t.Errorf("%d more samples, long after the last kill", w.samples-n)
	}
	if diff := cmp.Diff(sock.Never, w.w.Wake()); diff != "" {
		t.Error(diff)
	}
}

// What is known of a rule that says something else by now is forgotten.
func TestRetain(t *testing.T) {
	w := newWorld(0.01)
	w.w.Watch(held, w.now)
	w.leaks(8*second, 20*second, func() { w.gets(0.9, 0) })
	w.until(20 * second)
	other := spin.Rule{Name: "r", Sum: "2"}
	w.w.Retain(func(r spin.Rule) bool { return r == rule || r == other })
	if !w.w.Spins(held, rule) || w.w.Spins(held, other) {
		t.Error("a rule that is still there lost its spin, or gave it to another")
	}
	w.w.Retain(func(r spin.Rule) bool { return r == other })
	if w.w.Spins(held, rule) || len(w.w.All()) > 0 {
		t.Error("a rule that is no more keeps its spin")
	}
}

// Of a process that cannot be told from a later one of its PID nothing is known, and
// of one that has ended no spin goes on.
func TestWhoIsWatched(t *testing.T) {
	w := spin.New()
	w.Watch([]sock.Holder{{PID: 101}}, start)
	if due := w.Due(start); due != nil {
		t.Errorf("samples of %v", due)
	}
	if at := w.KnownAt(held); at != 0 {
		t.Errorf("one that is not watched is known at %d", at)
	}
	w.Watch(held, start)
	if at := w.KnownAt(held); at != start.Add(1200*time.Millisecond) {
		t.Errorf("known %v after it is watched", at.Sub(start))
	}
	due := w.Due(start)
	if diff := cmp.Diff([]spin.Process{{PID: 101, Start: 7}}, due); diff != "" {
		t.Fatal(diff)
	}
	w.Take([]spin.Usage{{Process: due[0], At: start, Gone: true}}, start)
	if w.KnownAt(held) != 0 || w.Due(start.Add(second)) != nil {
		t.Error("one that has ended is waited for, or sampled")
	}
}
