package sockdiag

import (
	"testing"

	"github.com/vishvananda/netlink/nl"

	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

func BenchmarkDecode(b *testing.B) {
	m, _, err := nextMessage(socketMessage(nl.SOCK_DIAG_BY_FAMILY, 1, 4242, attribute(8, []byte{3}), attribute(21, make([]byte, 8)), attribute(22, make([]byte, 2)), attribute(inetDiagInfo, tcpInfo(232))))
	check(b, err)
	var s sock.Socket
	b.ReportAllocs()
	for b.Loop() {
		if _, err := decode(&s, m.data); err != nil {
			b.Fatal(err)
		}
	}
}

// leaked is the number of sockets in the benchmarks: within the descriptors that
// one process may have.
const leaked = 9000

func makeLeak(b *testing.B, c *Conn) (*nstest.Leak, []sock.ID) {
	b.Helper()
	leak := must(nstest.CloseWait(nstest.V4, nstest.ServerSide, leaked))(b)
	var ids []sock.ID
	check(b, c.Scan(sock.Query{States: ssfilter.Of(ssfilter.CloseWait)}, func(s *sock.Socket, _ sock.Instant) { ids = append(ids, s.ID) }))
	if len(ids) != leaked {
		b.Fatalf("%d sockets, want %d", len(ids), leaked)
	}
	return leak, ids
}

func BenchmarkScan(b *testing.B) {
	tests := map[string]ssfilter.Expr{
		"all match":  nil,
		"none match": must(ssfilter.ParseExpr("dport = :1"))(b),
	}
	for name, where := range tests {
		b.Run(name, func(b *testing.B) {
			c := openNamed(b)
			leak, _ := makeLeak(b, c)
			defer leak.Close()
			q := sock.Query{States: ssfilter.Of(ssfilter.CloseWait), Where: where}
			seen := 0
			b.ReportAllocs()
			for b.Loop() {
				check(b, c.Scan(q, func(*sock.Socket, sock.Instant) { seen++ }))
			}
			b.ReportMetric(float64(seen)/float64(b.N), "sockets/op")
		})
	}
}

func BenchmarkLookup(b *testing.B) {
	c := openKernel(b)
	leak, ids := makeLeak(b, c)
	defer leak.Close()
	answers := make([]sock.Answer, 0, len(ids))
	b.ReportAllocs()
	for b.Loop() {
		answers = must(c.Lookup(ids, answers))(b)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/leaked, "ns/socket")
}

// BenchmarkDestroy asks for each socket and destroys it; use -benchtime=5x.
func BenchmarkDestroy(b *testing.B) {
	c := openKernel(b)
	b.ReportAllocs()
	answers := make([]sock.Answer, 0, 1)
	for range b.N {
		b.StopTimer()
		leak, ids := makeLeak(b, c)
		b.StartTimer()
		for i := range ids {
			answers = must(c.Lookup(ids[i:i+1], answers))(b)
			check(b, c.Destroy(ids[i]))
		}
		b.StopTimer()
		check(b, leak.Close())
	}
	b.ReportMetric(float64(b.N*leaked)/b.Elapsed().Seconds(), "kills/s")
	b.ReportMetric(0, "ns/op")
}
