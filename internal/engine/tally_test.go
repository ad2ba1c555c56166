package engine

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/engine/group"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// flood makes timewait sockets towards so many peers.
func flood(n, peers int) []sock.Socket {
	sockets := make([]sock.Socket, n)
	src := netip.MustParseAddr("10.1.2.3")
	for i := range sockets {
		s, peer := &sockets[i], i%peers
		s.State, s.ID.Cookie, s.Timer, s.Expires = ssfilter.TimeWait, uint64(i+1), sock.TimerTimeWait, 30*time.Second
		s.Src = netip.AddrPortFrom(src, uint16(32768+i/peers))
		s.Dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(peer >> 16), byte(peer >> 8), byte(peer)}), 443)
	}
	return sockets
}

// BenchmarkGroup counts 100,000 sockets by address and port of the peer, from the
// scan to the groups' phases. B/op and heap-B are what that takes beyond the scan.
func BenchmarkGroup(b *testing.B) {
	const many = 100_000
	for _, peers := range []int{100, 10_000, 100_000} {
		for _, test := range []struct {
			name string
			when []rules.Condition
		}{
			{"count", []rules.Condition{{Metric: rules.Count, Op: rules.Greater, Number: 20000}}},
			{"growth", []rules.Condition{{Metric: rules.Growth, Op: rules.Greater, Number: 20000}}},
			{"port_usage", []rules.Condition{{Metric: rules.PortUsage, Op: rules.Greater, Number: 80}}},
		} {
			b.Run(fmt.Sprintf("%s/%d groups", test.name, peers), func(b *testing.B) {
				sockets := flood(many, peers)
				s := set(rules.Rule{
					Name: "flood", Enabled: true, Match: []rules.Match{{States: ssfilter.Of(ssfilter.TimeWait)}},
					GroupBy: []rules.GroupKey{rules.ByDst, rules.ByDport}, When: test.when, For: time.Minute,
					Then: []rules.Action{{Kind: rules.Log}},
				})
				e := New(Config{Precision: benchJiffy})
				e.Step(benchStart, RulesChanged{Program: match.Compile(&s)})
				ports := portsOf(ssfilter.PortRange{First: 32768, Last: 60999})
				b.ReportAllocs()
				var before, after runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&before)
				most := uint64(0)
				now := benchStart
				for b.Loop() {
					p := e.Step(now, CountersRead{OK: true, Ports: ports})
					if p.Scan == nil {
						b.Fatal("no scan")
					}
					f := p.Scan.Begin(now)
					for i := range sockets {
						f.Take(&sockets[i], now)
					}
					e.Step(now, ScanDone{Result: f, Sent: now})
					b.StopTimer()
					if most == 0 {
						runtime.ReadMemStats(&after)
						most = after.HeapAlloc - before.HeapAlloc
					}
					if f.hits.Len() > 0 || int(e.rules[0].stats.sockets) != many {
						b.Fatalf("%d counted, %d hits", e.rules[0].stats.sockets, f.hits.Len())
					}
					now = now.Add(30 * time.Second)
					e.Step(now, nil)
					b.StartTimer()
				}
				b.ReportMetric(float64(most), "heap-B")
			})
		}
	}
}

// BenchmarkFiring has 100,000 groups fire at once: how long the loop is taken by
// what follows from a scan, and by beginning the next one.
func BenchmarkFiring(b *testing.B) {
	const many = 100_000
	sockets := flood(many, many)
	s := set(above(0, func(r *rules.Rule) {
		r.Match = []rules.Match{{States: ssfilter.Of(ssfilter.TimeWait)}}
		r.GroupBy, r.For = []rules.GroupKey{rules.ByDst, rules.ByDport}, 0
	}))
	var first, again, begin time.Duration
	scans := 0
	for b.Loop() {
		e := New(Config{Precision: benchJiffy})
		e.Step(benchStart, RulesChanged{Program: match.Compile(&s)})
		now := benchStart
		for i := range 4 {
			began := time.Now()
			p := e.Step(now, CountersRead{OK: true})
			if i > 0 {
				begin += time.Since(began)
			}
			f := p.Scan.Begin(now)
			for j := range sockets {
				f.Take(&sockets[j], now)
			}
			began = time.Now()
			p = e.Step(now, ScanDone{Result: f, Sent: now})
			if took := time.Since(began); i == 0 {
				first += took
			} else {
				again += took
			}
			if want := many; e.rules[0].groups.Firing() != want || len(p.Alerts) != group.MaxAlerts+1 {
				b.Fatalf("%d groups fire, %d alarms", e.rules[0].groups.Firing(), len(p.Alerts))
			}
			now = now.Add(30 * time.Second)
			e.Step(now, nil)
		}
		scans++
	}
	b.ReportMetric(first.Seconds()*1000/float64(scans), "first-ms")
	b.ReportMetric(again.Seconds()*1000/float64(3*scans), "again-ms")
	b.ReportMetric(begin.Seconds()*1000/float64(3*scans), "begin-ms")
}
