package sockettable

import (
	"encoding/binary"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/engine/track"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// tableOf returns n sockets in disorder.
func tableOf(n int) *Table {
	var t Table
	for i := range n {
		scattered := uint32(i) * 2654435761
		var addr [4]byte
		binary.BigEndian.PutUint32(addr[:], scattered)
		s := sock.Socket{Inode: scattered, RQueue: scattered % 3}
		s.State, s.ID.Cookie = ssfilter.Established, uint64(i+1)
		s.Src = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(scattered))
		s.Dst = netip.AddrPortFrom(netip.AddrFrom4(addr), 5432)
		age := time.Duration(scattered%1e6) * time.Millisecond
		t.Add(&s, track.Age{InState: age, Idle: age, Known: true})
	}
	return &t
}

// BenchmarkTable prints what a busy proxy has, oldest first.
func BenchmarkTable(b *testing.B) {
	const n = 200_000
	perSocket := func(b *testing.B, work func(*Table)) {
		b.ReportAllocs()
		for b.Loop() {
			b.StopTimer()
			t := tableOf(n)
			b.StartTimer()
			work(t)
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/socket")
	}
	oldest, err := ParseOrder("age", false)
	if err != nil {
		b.Fatal(err)
	}
	view := View{Order: oldest, Headings: true}
	b.Run("add", func(b *testing.B) { perSocket(b, func(*Table) { tableOf(n) }) })
	b.Run("sort", func(b *testing.B) { perSocket(b, func(t *Table) { t.sort(oldest) }) })
	b.Run("print", func(b *testing.B) {
		perSocket(b, func(t *Table) {
			if err := t.Print(io.Discard, &view); err != nil {
				b.Fatal(err)
			}
		})
	})
}
