package engine

import (
	"math/rand/v2"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// TestHits: what a scan brings is told as it was shown.
func TestHits(t *testing.T) {
	if size := unsafe.Sizeof(hit{}); size > 128 {
		t.Errorf("a hit is %d bytes", size)
	}
	rng := rand.New(rand.NewPCG(3, 4))
	ms := func() time.Duration { return time.Duration(rng.Uint32()) * time.Millisecond }
	var x hits
	var want []sock.Socket
	for range 800 {
		s := sock.Socket{
			ID: sock.ID{
				Family: 10, SPort: [2]byte{1, byte(rng.Uint32())}, DPort: [2]byte{byte(rng.Uint32()), 2}, Src: [16]byte{0x20, 1, 15: byte(rng.Uint32())},
				Dst: [16]byte{0xfe, 0x80, 15: byte(rng.Uint32())}, Iface: rng.Uint32(), Netns: uint32(rng.IntN(3)), Cookie: rng.Uint64(),
			},
			Timer: uint8(rng.IntN(4)), Retrans: uint8(rng.Uint32()), MPTCP: rng.IntN(2) == 0, Expires: ms(),
			Entered: sock.Instant(rng.Int64()), Unmoved: rng.IntN(2) == 0, NetnsNames: []string{"", "/", "/blue/"}[rng.IntN(3)],
			RQueue: rng.Uint32(), WQueue: rng.Uint32(), UID: uint32(rng.IntN(3)), Inode: rng.Uint32(),
			Info: sock.Info{
				Has: sock.Has(rng.IntN(256)), Unacked: rng.Uint32(), NotSent: rng.Uint32(), SegsIn: rng.Uint32(),
				LastDataSent: ms(), LastDataRecv: ms(), LastAckRecv: ms(), BytesAcked: rng.Uint64(), BytesReceived: rng.Uint64(),
			},
		}
		s.Conn = ssfilter.Conn{
			State: ssfilter.State(rng.IntN(13)), Src: s.ID.Local(), Dst: s.ID.Peer(), Iface: s.ID.Iface, Device: []string{"", "eth0"}[rng.IntN(2)],
			AltNames: ssfilter.UnknownNames, Mark: uint32(rng.IntN(3)), HasMark: rng.IntN(2) == 0, Cgroup: []string{"", "/a.service"}[rng.IntN(2)],
			Autobound: ssfilter.Tri(rng.IntN(3) - 1),
		}
		x.Add(x.pack(&s, benchStart.Add(time.Duration(len(want)/3)), false))
		want = append(want, s)
	}
	for i := range want {
		h := x.At(i)
		equal := cmp.Comparer(func(a, b ssfilter.Endpoint) bool { return a == b })
		if diff := cmp.Diff(want[i], x.socket(h), equal); diff != "" || x.key(h) != want[i].ID.Key() || x.got(h) != benchStart.Add(time.Duration(i/3)) {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	}
}

// TestScanBringsWhatChanged: what is tracked, of which the kernel knows all, and that
// is as it was, is brought no more; it counts, and is not taken for absent.
func TestScanBringsWhatChanged(t *testing.T) {
	b := newBench(t)
	for cookie := uint64(1); cookie <= 3; cookie++ {
		b.add(cookie, time.Hour)
	}
	b.rule(set(killing("r", limited(0, time.Hour))))
	b.until(20 * time.Second)
	if held := b.e.Overview(b.now).Rules[0].Held; held != 3 {
		t.Fatalf("%d are held, want 3", held)
	}
	scanned := func() *ScanResult {
		l := &Scan{program: b.e.program, of: match.AllClasses, lookahead: b.e.lookahead(match.AllClasses, b.now), known: b.e.known(), seed: b.e.seed, precision: benchJiffy}
		f := l.Begin(b.now)
		for _, s := range b.sockets {
			shown := s.Report(b.now, benchJiffy)
			f.Take(&shown, b.now)
		}
		return f
	}
	f := scanned()
	b.e.markShown(&f.scan.known)
	if f.hits.Len() != 0 || f.scan.counts[0].stats.sockets != 3 {
		t.Errorf("%d were brought, %d counted; want none and 3", f.hits.Len(), f.scan.counts[0].stats.sockets)
	}
	for tr := range b.e.tracks.all() {
		if !tr.is(seen) {
			t.Errorf("%d was shown, and is taken for absent", tr.Cookie)
		}
	}
	b.sockets[2].RQueue = 7
	if f := scanned(); f.hits.Len() != 1 || f.hits.At(0).cookie != 2 {
		t.Errorf("%d were brought, want the one that has more to read", f.hits.Len())
	}
}
