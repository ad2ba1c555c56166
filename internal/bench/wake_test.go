package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
)

const (
	wakeIdle  = 5 * time.Second        // what the rule allows
	wakeN     = 4000                   // sockets in a round: two descriptors each
	wakeEvery = 500 * time.Microsecond // between the due instants of two
	wakeSpan  = 100 * time.Millisecond // a peer speaks within that before and after the due instant
	wakeAfter = 500 * time.Millisecond // when to see whether the socket lives, before it is idle for too long again
)

// BenchmarkWake is how many sockets die although their peer had spoken before. Each
// falls due, and at a random instant around that its peer sends a byte: where the
// kernel took that, the socket was alive. Starved, sockdog is stopped for 95 ms of every
// 100.
func BenchmarkWake(b *testing.B) {
	for _, starved := range []bool{false, true} {
		b.Run(fmt.Sprint("starved=", starved), func(b *testing.B) {
			builds := builds(b)
			sums := make(map[string]*woken)
			for b.Loop() {
				for name, build := range builds {
					if sums[name] == nil {
						sums[name] = &woken{}
					}
					wakeRound(b, build, starved, sums[name])
				}
			}
			for name, w := range sums {
				b.ReportMetric(1e4*float64(w.after)/float64(w.after+w.before+w.lived), name+"killed-alive/10000")
				b.ReportMetric(float64(w.before), name+"killed-idle")
				b.ReportMetric(float64(w.lived), name+"lived")
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// woken is what became of sockets: killed after their peer had spoken, or before,
// or not at all.
type woken struct{ after, before, lived int }

func wakeRound(b *testing.B, build string, starved bool, w *woken) {
	s := start(b, build, "interval: 1s, cpu_budget: 100%, limit: 100000/1m", fmt.Sprint("state: established, dport: 9220, idle_for: ", wakeIdle))
	defer s.end()
	ctx, stop := context.WithCancel(context.Background())
	var beside sync.WaitGroup
	defer beside.Wait()
	if starved {
		beside.Go(func() { starve(ctx, s.cmd.Process.Pid) })
	}
	// A log that nobody reads must not be what is measured.
	beside.Go(s.drain)
	defer s.cmd.Process.Signal(unix.SIGTERM)
	defer stop()
	wakeAll(b, w)
}

// starve lets a process run for five milliseconds of every hundred.
func starve(ctx context.Context, pid int) {
	defer unix.Kill(pid, unix.SIGCONT)
	for ctx.Err() == nil {
		unix.Kill(pid, unix.SIGSTOP)
		time.Sleep(95 * time.Millisecond)
		unix.Kill(pid, unix.SIGCONT)
		time.Sleep(5 * time.Millisecond)
	}
}

// wakeAll makes the sockets, has their peers speak, and sees what became of them.
func wakeAll(b *testing.B, w *woken) {
	listener, err := nstest.ListenAt(netip.AddrPortFrom(nstest.V4, 9220), unix.IPPROTO_TCP)
	if err != nil {
		b.Fatal(err)
	}
	defer listener.Close()
	var mu sync.Mutex // of w
	var all sync.WaitGroup
	var pairs []nstest.Pair
	for began := time.Now(); len(pairs) < wakeN; {
		time.Sleep(time.Until(began.Add(time.Duration(len(pairs)) * wakeEvery)))
		p, err := nstest.NewPair(listener)
		if err != nil {
			b.Fatal(err)
		}
		pairs = append(pairs, p)
		speakAt := time.Now().Add(wakeIdle + rand.N(2*wakeSpan) - wakeSpan)
		all.Go(func() {
			time.Sleep(time.Until(speakAt))
			spoke := p.Server.Send(1) == nil
			time.Sleep(wakeAfter)
			killed := isKilled(p.Client)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case killed && spoke:
				w.after++
			case killed:
				w.before++
			default:
				w.lived++
			}
		})
	}
	all.Wait()
	for _, p := range pairs {
		p.Close()
	}
}
