package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
)

const (
	wakeIdle  = 5 * time.Second        // what the rule allows
	wakeN     = 4000                   // sockets in a round: two descriptors each
	wakeEvery = 500 * time.Microsecond // between the due instants of two
	wakeSpan  = 100 * time.Millisecond // a peer speaks within that before and after the due instant
	wakeAfter = 500 * time.Millisecond // when to see whether the socket lives
)

// wake measures how many sockets die although their peer had spoken before. Each
// falls due, and at a random instant around that its peer sends a byte: where the
// kernel took that, the socket was alive.
func (b *bench) wake() error {
	builds := []string{b.sockdog}
	fmt.Printf("\n| %d sockets that wake around the instant they fall due: killed after life, per 10,000 | this build |", wakeN*b.rounds)
	if b.against != "" {
		builds = append(builds, b.against)
		fmt.Printf(" %s |", filepath.Base(b.against))
	}
	fmt.Println("\n|---" + strings.Repeat("|---", len(builds)) + "|")
	for _, starved := range []bool{false, true} {
		what := "quiet"
		if starved {
			what = "stopped 95 ms of every 100"
		}
		fmt.Print("| ", what)
		sums := make([]woken, len(builds))
		for range b.rounds {
			for i, build := range builds {
				w, err := b.wakeRound(build, starved)
				if err != nil {
					return err
				}
				sums[i].after += w.after
				sums[i].before += w.before
				sums[i].lived += w.lived
			}
		}
		for _, w := range sums {
			fmt.Printf(" | %.1f (%d of %d; %d killed before, %d lived)", 1e4*float64(w.after)/float64(w.after+w.before+w.lived),
				w.after, w.after+w.before+w.lived, w.before, w.lived)
		}
		fmt.Println(" |")
	}
	return nil
}

// woken is what became of sockets: killed after their peer had spoken, or before,
// or not at all.
type woken struct{ after, before, lived int }

func (b *bench) wakeRound(build string, starved bool) (woken, error) {
	s, err := b.startWith(build, fmt.Sprintf("settings: {interval: 1s, cpu_budget: 100%%, limit: 100000/1m}\nrules:\n"+
		"  - name: bench\n    match: {state: established, dport: 9220, idle_for: %v}\n    then: [{kill: {limit: 100000/1m}}]\n", wakeIdle))
	if err != nil {
		return woken{}, err
	}
	ctx, stop := context.WithCancel(context.Background())
	var beside sync.WaitGroup
	if starved {
		beside.Go(func() { starve(ctx, s.cmd.Process.Pid) })
	}
	// A log that nobody reads must not be what is measured.
	beside.Go(func() {
		for s.log.Scan() {
		}
	})
	w, err := wakeAll()
	stop()
	s.cmd.Process.Signal(unix.SIGTERM)
	beside.Wait()
	s.end()
	return w, err
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
func wakeAll() (w woken, err error) {
	listener, err := nstest.ListenAt(netip.AddrPortFrom(nstest.V4, 9220), unix.IPPROTO_TCP)
	if err != nil {
		return w, err
	}
	defer listener.Close()
	type waker struct {
		nstest.Pair
		at    time.Time
		spoke bool
	}
	all := make([]waker, 0, wakeN)
	defer func() {
		for i := range all {
			all[i].Close()
		}
	}()
	began := time.Now()
	for i := range wakeN {
		time.Sleep(time.Until(began.Add(time.Duration(i) * wakeEvery)))
		p, err := nstest.NewPair(listener)
		if err != nil {
			return w, err
		}
		around := time.Duration(rand.Int64N(int64(2*wakeSpan))) - wakeSpan
		all = append(all, waker{Pair: p, at: time.Now().Add(wakeIdle + around)})
	}
	// Each is scanned half a second after it spoke, before it is idle for too long
	// again.
	speak := func(i int) { all[i].spoke = all[i].Server.Send(1) == nil }
	see := func(i int) error {
		info, err := unix.GetsockoptTCPInfo(int(all[i].Client), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return err
		}
		switch killed := info.State == unix.BPF_TCP_CLOSE; {
		case killed && all[i].spoke:
			w.after++
		case killed:
			w.before++
		default:
			w.lived++
		}
		return nil
	}
	seen := 0
	order := make([]int, len(all))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return all[a].at.Compare(all[b].at) })
	for _, i := range order {
		time.Sleep(time.Until(all[i].at))
		speak(i)
		for ; seen < i-int(4*wakeSpan/wakeEvery) && time.Since(all[seen].at) >= wakeAfter; seen++ {
			if err := see(seen); err != nil {
				return w, err
			}
		}
	}
	for ; seen < len(all); seen++ {
		time.Sleep(time.Until(all[seen].at.Add(wakeAfter)))
		if err := see(seen); err != nil {
			return w, err
		}
	}
	return w, nil
}
