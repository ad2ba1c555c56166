package track

import (
	"math/rand/v2"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// TestPacked: what is packed is unpacked as it was, but for what is said of Packed.
// No instant that an age counts from becomes earlier.
func TestPacked(t *testing.T) {
	if size := unsafe.Sizeof(Packed{}); size != 104 {
		t.Errorf("%d bytes, want 104", size)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	some := func(within time.Duration) time.Duration { return time.Duration(rng.Int64N(int64(within))) }
	for range 2000 {
		safe := start.Add(some(time.Hour))
		heard := safe.Add(some(time.Millisecond) - some(2*time.Hour))
		c := Connection{
			ID: sock.ID{
				Family: uint8(rng.Uint32()), SPort: [2]byte{byte(rng.Uint32()), 1}, DPort: [2]byte{2, byte(rng.Uint32())},
				Src: [16]byte{byte(rng.Uint32()), 15: 3}, Dst: [16]byte{4, 15: byte(rng.Uint32())}, Cookie: rng.Uint64(),
			},
			State: ssfilter.State(rng.IntN(13)),
			Times: Times{
				Entered: Bound{safe, safe.Add(-some(2 * time.Minute))}, Quiet: Bound{safe, safe.Add(-some(10 * time.Millisecond))}, Queued: Never,
				Heard: Bound{heard, heard},
			},
			Backlog: rng.IntN(2) == 0, Accepted: rng.IntN(2) == 0, Counted: rng.IntN(2) == 0, Autobound: ssfilter.Tri(rng.IntN(3) - 1),
			Acked: rng.Uint64(), Received: rng.Uint64(), SegsIn: rng.Uint32(), Retrans: uint8(rng.Uint32()), Inode: rng.Uint32(),
		}
		if rng.IntN(2) == 0 {
			c.Queued = safe.Add(some(2*time.Hour) - time.Hour)
		}
		p := c.Pack()
		got := p.Unpack()
		for _, b := range []struct{ was, is Bound }{{c.Entered, got.Entered}, {c.Quiet, got.Quiet}} {
			earlier := b.was.Early.Sub(b.is.Early)
			if far := b.was.Safe.Sub(b.was.Early) > 65*time.Second; b.is.Safe != b.was.Safe || !far && (earlier < 0 || earlier >= time.Millisecond) {
				t.Fatalf("%+v became %+v", b.was, b.is)
			}
		}
		if late := got.Heard.Safe.Sub(min(c.Heard.Safe, c.Base())); late < 0 || late >= time.Millisecond || got.Heard.Safe.Sub(got.Heard.Early) != got.Quiet.Safe.Sub(got.Quiet.Early) {
			t.Fatalf("heard %+v, with base %d, became %+v", c.Heard, c.Base(), got.Heard)
		}
		if late := got.Queued.Sub(max(c.Queued, c.Quiet.Safe)); (got.Queued == Never) != (c.Queued == Never) || late < 0 || late >= time.Millisecond {
			t.Fatalf("queued since %d, quiet since %d, became %d", c.Queued, c.Quiet.Safe, got.Queued)
		}
		if again := got.Pack(); again != p {
			t.Fatalf("packed again: %+v, was %+v", again, p)
		}
		got.Times = c.Times
		if diff := cmp.Diff(c, got); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
		if p.ID() != c.ID || p.State() != c.State || p.Backlog() != c.Backlog || p.Accepted() != c.Accepted || p.Entered() != c.Entered.Safe {
			t.Fatalf("%+v reads otherwise than what was packed", p)
		}
	}
}
