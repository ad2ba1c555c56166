package table_test

import (
	"math/rand/v2"
	"testing"

	"github.com/sockdog/sockdog/internal/engine/table"
)

// TestCookies holds the table to a map.
func TestCookies(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 10))
	for _, expect := range []int{0, 100, 1 << 16} {
		got, want := table.NewCookies[int](expect), make(map[uint64]int)
		for round := range 50_000 {
			// In runs per processor, as gen_cookie_next hands them out.
			cookie := uint64(rng.IntN(4))<<32 | uint64(1+rng.IntN(20_000))
			at, ok := got.Slot(cookie)
			if value, known := want[cookie]; ok != known || ok && got.Value(at) != value {
				t.Fatalf("%#x: %t, want %t", cookie, ok, known)
			}
			if rng.IntN(2) == 0 {
				got.Put(cookie, round)
				want[cookie] = round
			}
		}
		if got.Len() != len(want) || got.Slots() > 4*table.SlotsFor(max(expect, len(want))) {
			t.Errorf("%d in the table, want %d; %d slots", got.Len(), len(want), got.Slots())
		}
	}
}

// TestList: entries stay where they are, and come in order.
func TestList(t *testing.T) {
	for _, n := range []int{0, 1, 511, 512, 513, 2000} {
		var l table.List[int]
		for i := range n {
			if at := l.Add(i); at != i || *l.At(i) != i {
				t.Fatalf("entry %d has number %d", i, at)
			}
		}
		for _, list := range []func(func(*int) bool){l.All(), l.Drain()} {
			next := 0
			for v := range list {
				if *v != next {
					t.Fatalf("%d comes after %d others", *v, next)
				}
				next++
			}
			if next != n {
				t.Errorf("%d of %d", next, n)
			}
		}
		if l.Len() != 0 {
			t.Errorf("%d are left", l.Len())
		}
	}
}
