package events_test

import (
	"encoding/binary"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/source/events"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// BenchmarkConnection is the CPU time of a minimal connection (connect, accept, close of both
// ends, no data), with nothing attached and with the table wanting states, in turns; and what
// the table makes it dearer by, paired in each turn. An iteration is a turn of 3,000
// connections each.
func BenchmarkConnection(b *testing.B) {
	p := load(b, 65536)
	arms := []struct {
		name string
		want ssfilter.StateSet // 0: nothing is attached
	}{
		{"nothing", 0}, {"nothing-again", 0}, {"close-wait", ssfilter.Of(ssfilter.CloseWait)}, {"all", events.Covered},
	}
	cost := make([][]float64, len(arms)) // µs
	var turn uint32
	connections(b, turn) // warms up
	for b.Loop() {
		// Short slices in changing order: what disturbs the machine disturbs all alike.
		sums := make([]time.Duration, len(arms))
		for slice := range sliceCount {
			for i := range arms {
				arm := (i + slice) % len(arms)
				turn++
				if arms[arm].want != 0 {
					check(b, p.Attach(string(own)))
					check(b, p.Table().Want(arms[arm].want))
				}
				sums[arm] += connections(b, turn)
				if arms[arm].want != 0 {
					check(b, p.Detach())
				}
			}
		}
		for i, sum := range sums {
			cost[i] = append(cost[i], float64(sum.Nanoseconds())/1e3/(inSlice*sliceCount))
		}
	}
	b.ReportMetric(0, "ns/op")
	for i, arm := range arms {
		dearer := make([]float64, len(cost[i]))
		for k := range dearer {
			dearer[k] = 100 * (cost[i][k]/cost[0][k] - 1)
		}
		b.ReportMetric(median(cost[i]), arm.name+"-µs")
		if i > 0 {
			b.ReportMetric(median(dearer), arm.name+"-dearer-%")
		}
	}
}

const (
	sliceCount = 10
	inSlice    = 300
)

// connections makes connections to an address of its own, so that none meets what is left of
// others, and returns what CPU time that took.
func connections(b *testing.B, turn uint32) time.Duration {
	var addr [4]byte
	binary.BigEndian.PutUint32(addr[:], 127<<24|2<<16|turn)
	listener := must(nstest.Listen(netip.AddrFrom4(addr)))(b)
	defer listener.Close()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	began := threadTime(b)
	for range inSlice {
		pair, err := nstest.NewPair(listener)
		if err == nil {
			err = pair.Close()
		}
		check(b, err)
	}
	return threadTime(b) - began
}

func threadTime(b *testing.B) time.Duration {
	var ts unix.Timespec
	check(b, unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts))
	return time.Duration(ts.Nano())
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

// BenchmarkRead reads a table of the usual size with 1,200 sockets in it.
func BenchmarkRead(b *testing.B) {
	table := attach(b, 65536, ssfilter.Of(ssfilter.CloseWait)).Table()
	l := must(nstest.Listen(nstest.V4))(b)
	defer l.Close()
	for range 1200 {
		check(b, connectTo(b, l).client.CloseWrite())
	}
	for b.Loop() {
		n := 0
		check(b, table.Read(func(*events.Entry) { n++ }))
		if n != 1200 {
			b.Fatalf("%d sockets", n)
		}
	}
}

// BenchmarkLoad loads all programs, in a child.
func BenchmarkLoad(b *testing.B) {
	need(b)
	for b.Loop() {
		must(events.Load(65536))(b).Close()
	}
}
