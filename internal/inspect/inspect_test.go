package inspect_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/cgroup"
	"github.com/sockdog/sockdog/internal/holders"
	"github.com/sockdog/sockdog/internal/inspect"
	"github.com/sockdog/sockdog/internal/netns"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/source/sockdiag"
	"github.com/sockdog/sockdog/internal/why"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

func TestMain(m *testing.M) { nstest.Main(m) }

func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func noErr(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// kernel scans one namespace, and takes every process to be in it.
type kernel struct{ *sockdiag.Conn }

func (kernel) Reads(uint32) bool { return true }

// inspector inspects a namespace of its own.
func inspector(t *testing.T) *inspect.Inspector {
	t.Helper()
	nstest.Isolate(t)
	now := must(sock.Clock())(t)
	conn := must(sockdiag.Open(now, cgroup.New()))(t)
	t.Cleanup(func() { conn.Close() })
	return &inspect.Inspector{
		Scanner: kernel{conn}, Query: sock.Query{States: ssfilter.AllStates &^ ssfilter.Of(ssfilter.Listening)}, Whole: true,
		Now: now, Precision: sockdiag.Precision(), ProcRoot: "/proc",
	}
}

// read returns what is read, and this process in it.
func read(t *testing.T, x *inspect.Inspector) (*inspect.Seen, why.Process) {
	t.Helper()
	seen := must(x.Read(context.Background()))(t)
	return seen, seen.Processes[os.Getpid()]
}

// What a process has connected, bound or listens on is in a table, over TCP and MPTCP, in
// either family. What was reset is in none.
func TestReadDead(t *testing.T) {
	x := inspector(t)
	_, before := read(t, x)
	for _, addr := range []netip.Addr{nstest.V4, nstest.V6, nstest.Mapped} {
		l := must(nstest.Listen(addr))(t)
		defer l.Close()
		alive := must(nstest.NewPair(l))(t)
		defer alive.Close()
		reset := must(nstest.NewPair(l))(t)
		noErr(t, reset.Server.Abort())
		noErr(t, reset.Client.Await(unix.BPF_TCP_CLOSE))
		defer reset.Client.Close()
		bound := must(nstest.New(addr, unix.IPPROTO_TCP))(t)
		defer bound.Close()
		noErr(t, bound.Bind(netip.AddrPortFrom(addr, 0)))
	}
	l := must(nstest.ListenAt(netip.AddrPortFrom(nstest.V4, 0), unix.IPPROTO_MPTCP))(t)
	defer l.Close()
	at := must(l.Local())(t)
	multipath := must(nstest.New(nstest.V4, unix.IPPROTO_MPTCP))(t)
	defer multipath.Close()
	noErr(t, multipath.Connect(at))
	accepted := must(l.Accept())(t)
	defer accepted.Close()
	plain := must(nstest.NewPair(l))(t) // which such a listener accepted
	defer plain.Close()

	seen, after := read(t, x)
	if got := after.Dead - before.Dead; got != 3 {
		t.Errorf("%d dead sockets, want 3", got)
	}
	if !after.Known || after.Used < 20 || after.Limit == 0 || after.Holder.Start == 0 {
		t.Errorf("%+v", after)
	}
	if len(seen.Listening) != 4 || !seen.HasMPTCP {
		t.Errorf("%d listening sockets, MPTCP %v", len(seen.Listening), seen.HasMPTCP)
	}

	noErr(t, plain.Client.Abort())
	noErr(t, plain.Server.Await(unix.BPF_TCP_CLOSE))
	if _, again := read(t, x); again.Dead != after.Dead+1 {
		t.Errorf("%d dead sockets, want one more than %d: the plain connection of an MPTCP listener", again.Dead, after.Dead)
	}
}

// A program that connects a moment after it has made the socket holds no dead one.
func TestReadConnecting(t *testing.T) {
	x := inspector(t)
	_, before := read(t, x)
	l := must(nstest.Listen(nstest.V4))(t)
	defer l.Close()
	at := must(l.Local())(t)
	s := must(nstest.New(nstest.V4, unix.IPPROTO_TCP))(t)
	defer s.Close()
	first := true
	x.Scanner = connecting{x.Scanner, func() {
		if first = !first; first { // before the second reading of the tables
			noErr(t, s.Connect(at))
		}
	}}
	if _, after := read(t, x); after.Dead != before.Dead {
		t.Errorf("%d dead sockets, want %d", after.Dead, before.Dead)
	}
}

// connecting is a scanner before whose scans for all sockets something happens.
type connecting struct {
	inspect.Scanner
	before func()
}

func (c connecting) Scan(q sock.Query, each func(*sock.Socket, sock.Instant)) error {
	if q.Known == sock.Now {
		c.before()
	}
	return c.Scanner.Scan(q, each)
}

// Dead sockets of a namespace that was not scanned are not told.
func TestReadElsewhere(t *testing.T) {
	x := inspector(t)
	s := must(nstest.New(nstest.V4, unix.IPPROTO_TCP))(t)
	defer s.Close()
	if _, p := read(t, x); p.Dead == 0 {
		t.Error("a socket that was never connected is in some table")
	}
	x.Scanner = unread{x.Scanner}
	if _, p := read(t, x); p.Dead != 0 {
		t.Errorf("%d dead sockets of a namespace that was not scanned", p.Dead)
	}
}

type unread struct{ inspect.Scanner }

func (unread) Reads(uint32) bool { return false }

// A thread that waits in accept(2) is seen there, while its queue has something to take; and
// how often a queue was full.
func TestReadAcceptor(t *testing.T) {
	x := inspector(t)
	idle := must(nstest.Listen(nstest.V4))(t)
	defer idle.Close()
	busy := must(nstest.New(nstest.V4, unix.IPPROTO_TCP))(t)
	defer busy.Close()
	noErr(t, busy.Bind(netip.AddrPortFrom(nstest.V4, 0)))
	noErr(t, unix.Listen(int(busy), 0))
	at := must(busy.Local())(t)
	for range 3 { // one is taken into the queue, others are turned away
		s := must(nstest.New(nstest.V4, unix.IPPROTO_TCP))(t)
		defer s.Close()
		noErr(t, s.BeginConnect(at))
	}
	tid, done := make(chan int), make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		tid <- unix.Gettid()
		if s, err := idle.Accept(); err == nil {
			s.Close()
		}
	}()
	<-tid
	defer func() {
		s := must(nstest.Connect(must(idle.Local())(t)))(t)
		<-done
		s.Close()
	}()
	inode := netns.Inode()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		seen, p := read(t, x)
		if p.Accepting == nil {
			t.Fatalf("it is not known who accepts: %+v", p)
		}
		if *p.Accepting == 1 {
			if _, known := seen.Overflows[inode]; !known {
				t.Errorf("overflows %v, want those of namespace %d", seen.Overflows, inode)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d threads in accept, want 1", *p.Accepting)
		}
	}
}

// Of a listening socket that several processes share, it is read of each what its threads wait for: who
// has made it may leave it to a child.
func TestReadAcceptorForked(t *testing.T) {
	path, err := exec.LookPath("perl")
	nstest.SkipWithout(t, "perl", err)
	x := inspector(t)
	idle, busy := must(nstest.Listen(nstest.V4))(t), must(nstest.Listen(nstest.V4))(t)
	waiting := must(nstest.Connect(must(busy.Local())(t)))(t)
	defer waiting.Close()
	child := exec.Command(path, "-e", `open(my $l, "<&=", 3) or die; accept(my $c, $l)`)
	child.ExtraFiles = []*os.File{os.NewFile(uintptr(idle), "idle"), os.NewFile(uintptr(busy), "busy")}
	noErr(t, child.Start())
	defer func() {
		noErr(t, child.Process.Kill())
		_ = child.Wait()
		for _, f := range child.ExtraFiles {
			f.Close()
		}
	}()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		seen, self := read(t, x)
		if self.Accepting == nil || *self.Accepting != 0 {
			t.Fatalf("this process accepts nothing, and is said to: %v", self.Accepting)
		}
		if n := seen.Processes[child.Process.Pid].Accepting; n != nil && *n == 1 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the child is in accept, and is said to be: %+v", seen.Processes[child.Process.Pid])
		}
	}
}

// What /proc leaves open a pass over all descriptors tells, if there is one.
func TestReadByPass(t *testing.T) {
	x := inspector(t)
	if found := must(holders.Find(x.ProcRoot, nil))(t); found.Complete {
		t.Log("every process can be read: no pass is made")
		return
	}
	leak := must(nstest.CloseWait(nstest.V4, nstest.ClientSide, 1))(t)
	defer leak.Close()
	inode := must(leak.Stuck[0].Inode())(t)
	self, other := os.Getpid(), sock.Holder{PID: 1, Start: 1, Comm: "other"}
	for _, test := range []struct {
		name  string
		fails error
		exact bool
		pid   int
	}{
		{"a pass", nil, true, other.PID},
		{"none", errors.ErrUnsupported, false, self},
	} {
		x.Pass = func(inodes []uint32, each func(uint32, sock.Holder)) error {
			if !slices.Contains(inodes, inode) {
				t.Errorf("%s: inode %d is not among those asked for: %v", test.name, inode, inodes)
			}
			each(inode, other)
			return test.fails
		}
		seen, _ := read(t, x)
		held := seen.Holders[inode]
		if seen.Exact != test.exact || len(held) != 1 || held[0].PID != test.pid || seen.Unseen == "" {
			t.Errorf("%s: exact %v, held by %+v, unseen %q", test.name, seen.Exact, held, seen.Unseen)
		}
	}
}

// With a filter, dead sockets are those of processes that hold a socket of it; that a process
// listens does not count.
func TestReadDeadOfAFilter(t *testing.T) {
	x := inspector(t)
	l := must(nstest.Listen(nstest.V4))(t)
	defer l.Close()
	alive := must(nstest.NewPair(l))(t)
	defer alive.Close()
	dead := must(nstest.New(nstest.V4, unix.IPPROTO_TCP))(t)
	defer dead.Close()
	x.Whole = false
	for _, test := range []struct {
		port uint16
		dead bool
	}{
		{must(l.Local())(t).Port(), true},
		{1, false},
	} {
		x.Query.Where = ssfilter.Ports(ssfilter.Dst, ssfilter.PortRange{First: test.port, Last: test.port})
		if _, p := read(t, x); (p.Dead > 0) != test.dead {
			t.Errorf("connected to port %d: %d dead sockets", test.port, p.Dead)
		}
	}
}
