package engine

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/sockdog/sockdog/internal/engine/track"
	"github.com/sockdog/sockdog/internal/sock"
)

// TestTracks holds the table, and a queue of what is in it, to a map.
func TestTracks(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 12))
	x := newTracks()
	q := queue{of: &x, kind: dueQueue}
	want := make(map[sock.Key]sock.Instant) // ranks; -1: not in the queue
	for round := range 60_000 {
		// In runs per processor, as gen_cookie_next hands them out; the table grows and
		// shrinks several times.
		key := sock.Key{Netns: uint32(rng.IntN(2)), Cookie: uint64(rng.IntN(4))<<32 | uint64(1+rng.IntN(1500))}
		tr := x.get(key)
		if _, known := want[key]; known != (tr != nil) || known && x.key(tr) != key {
			t.Fatalf("round %d: %+v is known: %t", round, key, known)
		}
		growing := round/10_000%2 == 0
		switch {
		case tr == nil && (growing || rng.IntN(4) == 0):
			tr = x.add(&track.Connection{ID: sock.ID{Netns: key.Netns, Cookie: key.Cookie}})
			want[key] = -1
			fallthrough
		case tr != nil && rng.IntN(3) == 0:
			q.leave(tr)
			tr.rank = sock.Instant(rng.IntN(1000))
			q.add(tr)
			want[key] = tr.rank
		case tr != nil && (!growing || rng.IntN(4) == 0):
			q.leave(tr)
			x.remove(tr)
			delete(want, key)
		}
	}
	n := 0
	for tr := range x.all() {
		n++
		if rank, known := want[x.key(tr)]; !known || rank != tr.rank {
			t.Errorf("%+v has rank %d, want %d", x.key(tr), tr.rank, rank)
		}
	}
	if n != len(want) || x.n != n || len(q.numbers) != n {
		t.Errorf("%d connections, counted as %d, %d in the queue, want %d", n, x.n, len(q.numbers), len(want))
	}
	var ranks []sock.Instant
	for !q.empty() {
		ranks = append(ranks, q.first().rank)
		q.leave(q.first())
	}
	if !slices.IsSorted(ranks) || len(ranks) != n {
		t.Errorf("%d left the queue, in order: %t", len(ranks), slices.IsSorted(ranks))
	}
	for tr := range x.all() {
		x.remove(tr)
	}
	if len(x.slots) > 64 || x.n != 0 {
		t.Errorf("%d slots of a table of %d", len(x.slots), x.n)
	}
}

// TestTracksInPassing: one that is added only to be removed takes no memory anew.
func TestTracksInPassing(t *testing.T) {
	x := newTracks()
	c := track.Connection{ID: sock.ID{Cookie: 1}}
	x.remove(x.add(&c))
	if n := testing.AllocsPerRun(100, func() { x.remove(x.add(&c)) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
