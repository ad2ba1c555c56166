package engine

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/engine/group"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

func TestMatchingDoesNotAllocate(t *testing.T) {
	s := set(killing("port", matching(where("dport = 5432"))), killing("ports", matching(where("dport >= 5000 and sport != 22"))), killing("peer", matching(where("dst 10.0.0.0/8"))))
	f := (&Scan{program: match.Compile(&s), of: 1 << match.Cheap, precision: benchJiffy}).Begin(benchStart)
	found := full(ssfilter.CloseWait)
	found.Dst = endpoint(5432)
	if allocs := testing.AllocsPerRun(100, func() { found.ID.Cookie++; f.Take(&found, benchStart) }); allocs > 0 || f.later == never {
		t.Errorf("%v allocations for a socket that is left to a scan at %v", allocs, f.later)
	}
}

// closeWaits makes sockets in CLOSE_WAIT with random ports.
func closeWaits(n int) []sock.Socket {
	rng := rand.New(rand.NewPCG(1, 2))
	sockets := make([]sock.Socket, n)
	addr := netip.MustParseAddr("10.1.2.3")
	for i := range sockets {
		s := &sockets[i]
		s.State, s.ID.Cookie = ssfilter.CloseWait, uint64(i+1)
		s.Src = netip.AddrPortFrom(addr, uint16(32768+rng.IntN(28000)))
		s.Dst = netip.AddrPortFrom(addr, uint16(1+rng.IntN(20000)))
		s.Info.Has = 1<<8 - 1
	}
	return sockets
}

// full is a socket with every field of tcp_info.
func full(state ssfilter.State, change ...func(*sock.Socket)) sock.Socket {
	s := sock.Socket{Conn: ssfilter.Conn{State: state}, ID: sock.ID{Cookie: 1}, Inode: 1, Info: sock.Info{
		Has: 1<<8 - 1, LastDataRecv: 30 * time.Second, LastAckRecv: 20 * time.Second, BytesAcked: 1, BytesReceived: 100, SegsIn: 5,
	}}
	for _, c := range change {
		c(&s)
	}
	return s
}

// remembered returns how many groups are.
func remembered(groups *group.Set) (n int) {
	for range groups.All() {
		n++
	}
	return n
}
