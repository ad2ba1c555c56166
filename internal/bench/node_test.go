package bench

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
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

// A fullNode is a node of 100 network namespaces, each of a pod, with a process in it that holds its
// part of the sockets. In six of them 200 get stuck in CLOSE_WAIT on order.
// They are in a cgroup of their own: a rule that kills must name one.
type fullNode struct {
	b      *testing.B
	cgroup string // its path
	groups []nstest.Cgroup
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
	b.Cleanup(func() {
		for _, h := range c.places {
			h.end()
		}
		for _, group := range slices.Backward(c.groups) {
			if err := group.Remove(); err != nil {
				b.Error(err)
			}
		}
	})
	pods := c.group(c.group(nstest.Cgroup(root), c.cgroup), "kubepods")
	for i := range namespaces {
		stuck := 0
		if i < leakyNamespaces {
			stuck = stuckInEach // both ends were sockets once
		}
		dir, err := os.Open(string(c.group(c.group(pods, "pod"+podUID(i)), fmt.Sprintf("%064x", i))))
		if err != nil {
			b.Fatal(err)
		}
		h, err := startHolder(*sockets/namespaces-2*stuck, stuck, &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, UseCgroupFD: true, CgroupFD: int(dir.Fd())})
		if err := errors.Join(err, dir.Close()); err != nil {
			b.Fatal(err)
		}
		c.places = append(c.places, h)
	}
	return c
}

// group makes a control group.
func (c *fullNode) group(above nstest.Cgroup, name string) nstest.Cgroup {
	group, err := above.New(name)
	if err != nil {
		c.b.Fatal(err)
	}
	c.groups = append(c.groups, group)
	return group
}

// podUID is the uid of the pod in a place.
func podUID(place int) string { return fmt.Sprintf("%08x-a2bd-47e7-9599-7961201f20dd", place) }

// naming returns a sockdog that sees the names of the pods, bench/web-N, as a kubelet's logs have them.
func (c *fullNode) naming(sockdog string) string {
	logs := filepath.Join(c.b.TempDir(), "log")
	for i := range namespaces {
		if err := os.MkdirAll(filepath.Join(logs, "pods", fmt.Sprintf("bench_web-%d_%s", i, podUID(i))), 0o755); err != nil {
			c.b.Fatal(err)
		}
	}
	script := filepath.Join(c.b.TempDir(), "sockdog")
	text := fmt.Sprintf("#!/bin/sh\nexec unshare -m sh -c 'mount --bind %s /var/log && exec %s \"$@\"' sockdog \"$@\"\n", logs, sockdog)
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		c.b.Fatal(err)
	}
	return script
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

// BenchmarkNodeOwners is what watching all namespaces costs over a minute by a rule on pods, and by
// the same on their network namespaces, side by side, while 1,200 sockets are stuck.
func BenchmarkNodeOwners(b *testing.B) {
	c := newFullNode(b)
	build := c.naming(sockdogAlone(b))
	c.leak(c.leaky())
	var places []string
	for _, h := range c.places {
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", h.cmd.Process.Pid))
		if err != nil {
			b.Fatal(err)
		}
		places = append(places, strings.Trim(link, "net:[]"))
	}
	var running []*started
	for _, owner := range []string{"pod: bench/*", "netns: [" + strings.Join(places, ", ") + "]"} {
		s := start(b, build, "namespaces: all", "state: close-wait, in_state_for: 1h, "+owner, "--listen", "off")
		defer s.end()
		running = append(running, s)
	}
	time.Sleep(90 * time.Second) // what begins once is no part of it
	var pods, netns, ratios []float64
	for b.Loop() {
		cores := spend(running, time.Minute)
		pods, netns, ratios = append(pods, cores[0]), append(netns, cores[1]), append(ratios, cores[0]/cores[1])
	}
	report(b, "pod-percent-of-core", pods)
	report(b, "netns-percent-of-core", netns)
	report(b, "ratio", ratios)
}
