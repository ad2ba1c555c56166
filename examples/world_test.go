package examples

import (
	"errors"
	"io"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
)

// world is what an example meets: sockets of a program, which is this process,
// and their peers. They stay open until the process ends.
type world struct {
	t       *testing.T
	healthy []kept
	stuck   []nstest.Socket
	work    []func() error // what the program does with its healthy sockets, again and again
}

// kept is a socket that nothing may happen to.
type kept struct {
	name  string
	s     nstest.Socket
	state uint8
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// readEOF reads the end of the stream, and nothing before it.
func (w *world) readEOF(s nstest.Socket) {
	w.t.Helper()
	if err := s.Receive(1); err != io.EOF {
		w.t.Fatalf("read %v, want the end of the stream", err)
	}
}

// pair connects to a port of an address.
func (w *world) pair(addr string, port uint16) nstest.Pair {
	w.t.Helper()
	// A process that another test begins holds the listener until its exec, and the address with it.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	listener, err := nstest.ListenAt(netip.AddrPortFrom(netip.MustParseAddr(addr), port), unix.IPPROTO_TCP)
	w.check(err)
	defer listener.Close()
	p, err := nstest.NewPair(listener)
	w.check(err)
	return p
}

// keep says that nothing may happen to a socket, and what state it is in.
func (w *world) keep(name string, s nstest.Socket, state uint8) {
	w.t.Helper()
	w.check(s.Await(state))
	w.healthy = append(w.healthy, kept{name, s, state})
}

// heal says that a socket is stuck, and what state it is in.
func (w *world) heal(s nstest.Socket, state uint8) {
	w.t.Helper()
	w.check(s.Await(state))
	w.stuck = append(w.stuck, s)
}

// stream has one end send to the other for as long as the test runs.
func (w *world) stream(from, to nstest.Socket) {
	w.work = append(w.work, func() error { return errors.Join(from.Send(1), to.Receive(1)) })
}

// half closes the server's side for its part: the client is in CLOSE_WAIT.
func (w *world) half(p nstest.Pair) nstest.Pair {
	w.check(p.Server.CloseWrite())
	w.check(p.Client.Await(unix.BPF_TCP_CLOSE_WAIT))
	return p
}

// closeWait is a socket in CLOSE_WAIT towards a port.
func (w *world) closeWait(port uint16) nstest.Socket {
	p := w.pair("127.0.0.1", port)
	w.check(p.Server.Close())
	w.check(p.Client.Await(unix.BPF_TCP_CLOSE_WAIT))
	return p.Client
}

// stalled is a socket whose peer does not acknowledge what it has sent.
func (w *world) stalled(port uint16) nstest.Socket {
	p := w.pair("127.0.0.1", port)
	w.check(p.Server.Deafen())
	w.check(p.Client.Send(1))
	return p.Client
}

// overflow has connections arrive at a listener whose program does not accept them, more than its
// queue holds, for as long as the test runs.
func (w *world) overflow() nstest.Socket {
	w.t.Helper()
	listener, err := nstest.Listen(nstest.V4)
	w.check(err)
	w.check(unix.Listen(int(listener), 1))
	at, err := listener.Local()
	w.check(err)
	address := unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	w.work = append(w.work, func() error {
		s, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if err := unix.Connect(s, &address); err != nil && !errors.Is(err, unix.EINPROGRESS) {
			return err
		}
		return unix.Close(s)
	})
	return listener
}

// address gives the loopback interface one more address.
func address(t *testing.T, addr string) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	alias, err := unix.NewIfreq("lo:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := alias.SetInet4Addr(netip.MustParseAddr(addr).AsSlice()); err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFADDR, alias); err != nil {
		t.Fatal(err)
	}
}
