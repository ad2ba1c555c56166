package bench

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/netns"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/source/events"
	"github.com/sockdog/sockdog/internal/source/node"
	"github.com/sockdog/sockdog/internal/source/sockdiag"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// A fullNode is a node of 100 network namespaces, with a process in each that holds its part of
// the sockets. In six of them 200 get stuck in CLOSE_WAIT on order.
// They are in a cgroup of their own: a rule that kills must name one.
type fullNode struct {
	b      *testing.B
	cgroup string // its path
	places []*holding
}

const (
	namespaces      = 100
	leakyNamespaces = 6
	stuckInEach     = 200
)

func newFullNode(b *testing.B) *fullNode {
	b.Helper()
	needEvents(b)
	root, err := events.CgroupRoot()
	if err != nil {
		b.Fatal(err)
	}
	c := &fullNode{b: b, cgroup: fmt.Sprint("/sockdog-bench-", os.Getpid())}
	group, err := nstest.Cgroup(root).New(c.cgroup)
	if err != nil {
		b.Fatal(err)
	}
	dir, err := os.Open(string(group))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		for _, h := range c.places {
			h.end()
		}
		if err := errors.Join(dir.Close(), group.Remove()); err != nil {
			b.Error(err)
		}
	})
	for i := range namespaces {
		stuck := 0
		if i < leakyNamespaces {
			stuck = stuckInEach // both ends were sockets once
		}
		h, err := startHolder(*sockets/namespaces-2*stuck, stuck, &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, UseCgroupFD: true, CgroupFD: int(dir.Fd())})
		if err != nil {
			b.Fatal(err)
		}
		c.places = append(c.places, h)
	}
	return c
}

// order gives an order to some of the processes, and returns how many sockets are stuck
// there.
func (c *fullNode) order(some []*holding, what string) (sum int) {
	for _, h := range some {
		n, err := h.order(what)
		if err != nil {
			c.b.Fatal(err)
		}
		sum += n
	}
	return sum
}

// leak has some of the leaky processes leak.
func (c *fullNode) leak(some []*holding) {
	if stuck := c.order(some, orderLeak); stuck != len(some)*stuckInEach {
		c.b.Fatalf("%d sockets are stuck in %d namespaces", stuck, len(some))
	}
}

func (c *fullNode) leaky() []*holding { return c.places[:leakyNamespaces] }

// source is one of all namespaces that watches for CLOSE_WAIT.
func (c *fullNode) source(kind node.Kind) *node.Source {
	now, err := sock.Clock()
	if err != nil {
		c.b.Fatal(err)
	}
	s, err := node.Open(node.Config{
		Now: now, All: true, Kind: kind, ProcRoot: "/proc",
		OpenConn: func(n *netns.Namespace) (*sockdiag.Conn, error) { return sockdiag.OpenIn(n, now, nil) },
		Say:      func(slog.Level, string, ...slog.Attr) {},
	})
	if err != nil {
		c.b.Fatal(err)
	}
	c.b.Cleanup(s.Close)
	s.Start()
	s.Want(ssfilter.Of(ssfilter.CloseWait))
	return s
}

// scan times a scan by a new scanner, which knows nothing of a scan before, and returns how
// many stuck sockets of the node it found: this host may have others.
func (c *fullNode) scan(s *node.Source) (took float64) {
	x, err := s.OpenScanner()
	if err != nil {
		c.b.Fatal(err)
	}
	defer x.Close()
	found := 0
	began := time.Now()
	err = x.Scan(sock.Query{States: ssfilter.Of(ssfilter.CloseWait)}, func(k *sock.Socket, _ sock.Instant) {
		if ours.Contains(k.ID.Peer().Addr()) {
			found++
		}
	})
	took = ms(time.Since(began))
	if want := leakyNamespaces * stuckInEach; err != nil || found != want {
		c.b.Fatalf("%d sockets are stuck, want %d; error %v", found, want, err)
	}
	return took
}

// await waits until what is said holds.
func (c *fullNode) await(what string, holds func() bool) {
	for end := time.Now().Add(10 * time.Minute); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			c.b.Fatal("not within ten minutes: ", what)
		}
	}
}

// BenchmarkNodeScan finds what is stuck in all namespaces: by events, by sock_diag in each,
// and by ss in each. The first scan by events asks the kernel for each socket, later ones for
// those that it was not asked for within half a minute.
func BenchmarkNodeScan(b *testing.B) {
	c := newFullNode(b)
	c.leak(c.leaky())
	byEvents, bySockDiag := c.source(node.Events), c.source(node.SockDiag)
	c.await("the table follows all connections", func() bool {
		st := byEvents.State()
		return st.Kind == node.Events && st.Older == 0
	})
	first := c.scan(byEvents)
	var byTable, byDumps, bySs []float64
	for b.Loop() {
		byTable = append(byTable, c.scan(byEvents))
		byDumps = append(byDumps, c.scan(bySockDiag))
		began := time.Now()
		for _, h := range c.places {
			cmd := exec.Command("nsenter", "-t", fmt.Sprint(h.cmd.Process.Pid), "-n", "ss", "-Htn", "state", "close-wait")
			if err := cmd.Run(); err != nil {
				b.Fatal(err)
			}
		}
		bySs = append(bySs, ms(time.Since(began)))
	}
	b.ReportMetric(first, "first-events-ms")
	report(b, "events-ms", byTable)
	report(b, "sock_diag-ms", byDumps)
	report(b, "ss-ms", bySs)
}

// BenchmarkNode is what watching all namespaces costs over a minute in which sockets are
// stuck, and 100 connections a second begin and end. Half of the stuck ones are older than
// the daemon. In the end all are killed; those that got stuck while it watched, when they
// are due.
func BenchmarkNode(b *testing.B) {
	c := newFullNode(b)
	build := sockdogAlone(b)
	c.order(c.places[leakyNamespaces:][:10], orderTraffic)
	older, newer := c.leaky()[:leakyNamespaces/2], c.leaky()[leakyNamespaces/2:]
	const bound = 5 * time.Minute
	var cores, resident, early, late []float64
	for b.Loop() {
		c.leak(older)
		s := start(b, build, "namespaces: all", fmt.Sprintf("state: close-wait, cgroup: %s, in_state_for: %s", c.cgroup, bound))
		var watching sync.WaitGroup
		watching.Go(func() { s.drain() })
		time.Sleep(30 * time.Second) // what begins once is no part of it
		leaking := time.Now()
		c.leak(newer)
		leaked := time.Now()
		for time.Since(leaked) < bound-70*time.Second {
			cores = append(cores, spend([]*started{s}, time.Minute)...)
			resident = append(resident, s.resident()/1e6)
		}
		time.Sleep(time.Until(leaking.Add(bound - 100*time.Millisecond)))
		early = append(early, float64(len(newer)*stuckInEach-c.order(newer, orderCount)))
		c.await("the stuck sockets die", func() bool { return c.order(c.leaky(), orderCount) == 0 })
		late = append(late, ms(time.Since(leaked)-bound))
		s.cmd.Process.Signal(unix.SIGTERM)
		watching.Wait()
		s.cmd.Wait()
	}
	report(b, "percent-of-core", cores)
	report(b, "MB-resident", resident)
	report(b, "early", early)
	report(b, "last-late-ms", late)
}
