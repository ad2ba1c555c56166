package limit

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// TestWindow holds a window to its promise whatever happens: no stretch of its
// length ever holds more acts than its limit, counted at the instants at which
// they were done and not at those of their decision.
func TestWindow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &Window{}
		b := Throttle{w, {Limit: rules.Limit{N: 1000, Per: 1}}}
		w.Limit = rules.Limit{N: rapid.IntRange(1, 5).Draw(t, "n"), Per: time.Duration(rapid.IntRange(1, 50).Draw(t, "per"))}
		var now sock.Instant
		var done, underWay []sock.Instant // of acts; when those under way will be done
		for range rapid.IntRange(0, 5).Draw(t, "restored") {
			at := -sock.Instant(rapid.IntRange(0, 60).Draw(t, "at"))
			w.Spend(at)
			done = append(done, at)
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now += sock.Instant(rapid.IntRange(0, 20).Draw(t, "pause"))
			underWay = slices.DeleteFunc(underWay, func(at sock.Instant) bool {
				if at > now {
					return false
				}
				b.End(now) // the outcome comes in a while after the act
				return true
			})
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0:
				w.Limit = rules.Limit{N: rapid.IntRange(1, 5).Draw(t, "new n"), Per: time.Duration(rapid.IntRange(1, 50).Draw(t, "new per"))}
				continue
			case 1:
				if len(underWay) > 0 { // it came to nothing
					b.Cancel()
					done = slices.DeleteFunc(done, func(at sock.Instant) bool { return at == underWay[0] })
					underWay = underWay[1:]
				}
				continue
			}
			free, frees := w.Free(now), w.FreeAt(now)
			if (free > 0) != (frees <= now) {
				t.Fatalf("at %d %d are free, and more from %d", now, free, frees)
			}
			if free == 0 {
				if frees == sock.Never && len(underWay) == 0 {
					t.Fatalf("nothing is under way, and nothing will ever be free")
				}
				continue
			}
			b.Begin()
			at := now + sock.Instant(rapid.IntRange(0, 10).Draw(t, "takes"))
			underWay = append(underWay, at)
			slices.Sort(underWay)
			done = append(done, at)
			slices.Sort(done)
			// Every stretch that ends with this act: what was begun under a higher
			// limit may fill it, what is begun now may not.
			i, _ := slices.BinarySearch(done, at)
			for i < len(done)-1 && done[i+1] == at {
				i++
			}
			in := 0
			for _, d := range done[:i+1] {
				if at.Sub(d) < w.Limit.Per {
					in++
				}
			}
			if in > w.Limit.N {
				t.Fatalf("%d acts in a stretch of %d up to %d, want at most %d: %v", in, w.Limit.Per, at, w.Limit.N, done)
			}
		}
	})
}

// TestLeft: of what has left a window the last are remembered, and none where its length stays.
func TestLeft(t *testing.T) {
	for _, test := range []struct {
		fixed bool
		want  int
	}{{false, mostLeft}, {true, 0}} {
		w := Window{Limit: rules.Limit{N: 1, Per: 10}, Fixed: test.fixed}
		for at := range sock.Instant(2 * mostLeft) {
			w.Spend(at)
		}
		if now := sock.Instant(3 * mostLeft); !w.Idle(now) || w.Free(now) != 1 || len(w.spent) != test.want {
			t.Errorf("fixed %t: %d are remembered, and %d are free", test.fixed, len(w.spent), w.Free(now))
		}
	}
}

// TestFreeAt shows when the next act may be done.
func TestFreeAt(t *testing.T) {
	tests := []struct {
		name     string
		n        int
		spent    []sock.Instant
		underWay int
		want     sock.Instant
	}{
		{"empty", 1, nil, 0, 100},
		{"full", 2, []sock.Instant{95, 98}, 0, 105},
		{"one has left", 2, []sock.Instant{90, 98}, 0, 100},
		{"under way", 1, nil, 1, sock.Never},
		{"under way beside others", 2, []sock.Instant{95}, 1, 105},
		{"limit lowered", 1, []sock.Instant{95, 96, 97}, 0, 107},
		{"restored from a moment ahead", 1, []sock.Instant{101}, 0, 111},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := Window{Limit: rules.Limit{N: test.n, Per: 10}, spent: test.spent, underWay: test.underWay}
			if got := w.FreeAt(100); got != test.want {
				t.Errorf("frees at %d, want %d", got, test.want)
			}
		})
	}
}

// TestThrottle: what is let go on keeps its place, and the window of all rules counts
// for each.
func TestThrottle(t *testing.T) {
	all := Window{Limit: rules.Limit{N: 3, Per: time.Minute}}
	a := Throttle{{Limit: rules.Limit{N: 2, Per: time.Second}}, &all}
	b := Throttle{{Limit: rules.Limit{N: 9, Per: time.Second}}, &all}
	at := func(seconds int) sock.Instant { return sock.Instant(time.Duration(seconds) * time.Second) }
	want := func(what string, h Throttle, now sock.Instant, room int, roomAt sock.Instant, byOwn bool) {
		t.Helper()
		if full := h[0].Free(now) == 0; h.Room(now) != room || h.RoomAt(now) != roomAt || full != byOwn {
			t.Errorf("%s: room for %d, from %d on, by its own: %v", what, h.Room(now), h.RoomAt(now), full)
		}
	}
	want("nothing was done", a, at(1), 2, at(1), false)
	a.Grant(2)
	want("two are let go on", a, at(1), 0, sock.Never, true)
	want("of what all may do", b, at(1), 1, at(1), false)
	a.Grant(-1)
	a.Begin()
	want("one of them is under way", a, at(1), 0, sock.Never, true)
	a.End(at(2))
	want("it is done", a, at(2), 0, at(3), true)
	want("the others have what is left of the limit of all", b, at(2), 1, at(2), false)
	b.Spend(at(2))
	b.Begin()
	want("which they use up", b, at(2), 0, at(62), false)
	b.Cancel()
	want("and come to nothing, while a place is granted", b, at(2), 0, at(62), false)
	a[0].Ungrant()
	a[1].Ungrant()
	want("which is given back", b, at(2), 1, at(2), false)
}

// TestSummary: what begins to be held back is summed up a second later, and then each
// minute.
func TestSummary(t *testing.T) {
	s := NewSummary()
	at := func(seconds int) sock.Instant { return sock.Instant(time.Duration(seconds) * time.Second) }
	want := func(what string, want sock.Instant) {
		t.Helper()
		if s.At != want {
			t.Errorf("%s: to be said at %d, want %d", what, s.At, want)
		}
	}
	want("nothing", sock.Never)
	s.Soon(at(10))
	s.Soon(at(10) + 1)
	want("the first", at(11))
	s.Done(true, true, at(11))
	want("what goes on", at(71))
	s.Done(true, false, at(71))
	want("and ends", sock.Never)
	s.Soon(at(75))
	want("what begins soon after", at(131))
	s.Done(false, false, at(131))
	s.Soon(at(140))
	want("where there was nothing to say", at(141))
}
