package engine

import "testing"

// What is known of as many sockets as were expected has a bit for each place.
func TestKnownHasRoom(t *testing.T) {
	for n := range 2000 {
		k := newKnown(n)
		for cookie := range uint64(n) {
			k.Put(cookie+1, knownNow)
		}
		if len(k.shown)*64 < k.Slots() {
			t.Fatalf("%d sockets stand in %d places, of which %d have a bit", n, k.Slots(), 64*len(k.shown))
		}
	}
}
