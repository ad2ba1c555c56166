package sockdiag

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/netns"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// The tests in this file ask the real kernel, in a namespace of their own.

func TestMain(m *testing.M) { nstest.Main(m) }

func must[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// openKernel isolates the test and opens a Conn to the kernel.
func openKernel(t testing.TB) *Conn {
	t.Helper()
	nstest.Isolate(t)
	c := must(Open(must(sock.Clock())(t), nil))(t)
	t.Cleanup(func() { c.Close() })
	return c
}

func listen(t *testing.T, addr netip.Addr) nstest.Socket {
	t.Helper()
	l := must(nstest.Listen(addr))(t)
	t.Cleanup(func() { l.Close() })
	return l
}

func closeWait(t *testing.T, addr netip.Addr, side nstest.Side, n int) *nstest.Leak {
	t.Helper()
	leak := must(nstest.CloseWait(addr, side, n))(t)
	t.Cleanup(func() { leak.Close() })
	return leak
}

// pair is a connection whose ends the test may close, each of them once.
func pair(t *testing.T, listener nstest.Socket) nstest.Pair {
	t.Helper()
	return must(nstest.NewPair(listener))(t)
}

func scan(t *testing.T, c *Conn, q sock.Query) []sock.Socket {
	t.Helper()
	var seen []sock.Socket
	check(t, c.Scan(q, func(s *sock.Socket, _ sock.Instant) { seen = append(seen, *s) }))
	return seen
}

// only scans until there is one socket in a state, which it returns: a FIN may be
// acknowledged late.
func only(t *testing.T, c *Conn, state ssfilter.State) sock.Socket {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		seen := scan(t, c, sock.Query{States: ssfilter.Of(state)})
		switch {
		case len(seen) == 1:
			return seen[0]
		case time.Now().After(deadline):
			t.Fatalf("%d sockets in %v, want 1: %+v", len(seen), state, seen)
		}
	}
}

func ask(t *testing.T, c *Conn, id sock.ID) sock.Answer {
	t.Helper()
	return must(c.Lookup([]sock.ID{id}, nil))(t)[0]
}

func destroy(t *testing.T, c *Conn, id sock.ID) error {
	t.Helper()
	return c.Destroy(id)
}

// destroyAll destroys sockets one after the other.
func destroyAll(c *Conn, ids []sock.ID) (outcomes []error) {
	for _, id := range ids {
		outcomes = append(outcomes, c.Destroy(id))
	}
	return outcomes
}

func TestScanBothFamilies(t *testing.T) {
	tests := map[string]func(*Conn){
		"one walk":              func(*Conn) {},
		"a walk of each family": func(c *Conn) { c.perFamily = true },
	}
	for name, prepare := range tests {
		t.Run(name, func(t *testing.T) {
			c := openKernel(t)
			prepare(c)
			type line struct {
				family   uint8
				src, dst netip.AddrPort
				inode    uint32
				rqueue   uint32
				cookie   uint64
			}
			var want, got []line
			for _, addr := range []netip.Addr{nstest.V4, nstest.V6, nstest.Mapped} {
				for _, side := range []nstest.Side{nstest.ClientSide, nstest.ServerSide} {
					s := closeWait(t, addr, side, 1).Stuck[0]
					l := line{
						family: unix.AF_INET6,
						src:    unmap(must(s.Local())(t)),
						dst:    unmap(must(s.Remote())(t)),
						inode:  must(s.Inode())(t),
						cookie: must(s.Cookie())(t),
						rqueue: 1, // the FIN
					}
					if addr == nstest.V4 {
						l.family = unix.AF_INET
					}
					want = append(want, l)
				}
			}
			for _, s := range scan(t, c, sock.Query{States: ssfilter.Of(ssfilter.CloseWait)}) {
				got = append(got, line{s.ID.Family, s.Src, s.Dst, s.Inode, s.RQueue, s.ID.Cookie})
				all := sock.HasUnacked | sock.HasLastDataSent | sock.HasLastDataRecv | sock.HasLastAckRecv |
					sock.HasBytesAcked | sock.HasBytesReceived | sock.HasSegsIn | sock.HasNotSent
				if s.Info.Has != all {
					t.Errorf("tcp_info fields %b, want %b", s.Info.Has, all)
				}
			}
			byCookie := func(a, b line) int { return int(a.cookie) - int(b.cookie) }
			slices.SortFunc(want, byCookie)
			slices.SortFunc(got, byCookie)
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(line{}), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
				t.Errorf("look (-want +got):\n%s", diff)
			}
		})
	}
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// spy counts the sockets that the kernel sends.
type spy struct {
	link
	sockets int
}

func (s *spy) recv(b []byte) (int, error) {
	n, err := s.link.recv(b)
	for rest := b[:min(max(n, 0), len(b))]; len(rest) > 0; {
		var m message
		if m, rest, _ = nextMessage(rest); m.kind == tcpdiagGetsock || m.kind == nl.SOCK_DIAG_BY_FAMILY {
			s.sockets++
		}
	}
	return n, err
}

func TestScanFiltersInTheKernel(t *testing.T) {
	c := openKernel(t)
	leak := closeWait(t, nstest.V4, nstest.ClientSide, 10)
	one := must(leak.Stuck[3].Local())(t)
	where := must(ssfilter.ParseExpr("sport = :" + itoa(one.Port())))(t)

	s := &spy{link: c.link}
	c.link = s
	seen := scan(t, c, sock.Query{States: ssfilter.Of(ssfilter.CloseWait), Where: where})
	if len(seen) != 1 || seen[0].Src != one {
		t.Errorf("saw %+v, want the one socket at %v", seen, one)
	}
	if s.sockets != 1 {
		t.Errorf("the kernel sent %d sockets, want 1", s.sockets)
	}
}

func itoa(port uint16) string {
	return netip.AddrPortFrom(nstest.V4, port).String()[len("127.0.0.1:"):]
}

// An expression whose bytecode is too long for the kernel is evaluated here.
func TestScanFiltersWithoutTheKernel(t *testing.T) {
	c := openKernel(t)
	leak := closeWait(t, nstest.V6, nstest.ClientSide, 3)
	one := must(leak.Stuck[1].Local())(t)
	ranges := []ssfilter.PortRange{{First: one.Port(), Last: one.Port()}}
	for port := uint16(2); port < 20000; port += 2 { // below net.ipv4.ip_local_port_range
		ranges = append(ranges, ssfilter.PortRange{First: port, Last: port})
	}
	where := ssfilter.Ports(ssfilter.Src, ranges...)
	if _, err := c.bytecode(where); !errors.Is(err, ssfilter.ErrTooLarge) {
		t.Fatalf("the expression has bytecode: %v", err)
	}
	seen := scan(t, c, sock.Query{States: ssfilter.Of(ssfilter.CloseWait), Where: where})
	if len(seen) != 1 || seen[0].Src != one {
		t.Errorf("saw %+v, want the one socket at %v", seen, one)
	}
}

func TestKernelRefusesBytecode(t *testing.T) {
	c := openKernel(t)
	closeWait(t, nstest.V4, nstest.ClientSide, 2)
	q := sock.Query{States: ssfilter.Of(ssfilter.CloseWait)}
	bad := []byte{8, 0, inetDiagReqBytecode, 0, 0xee, 4, 8, 0} // no such opcode
	seen := 0
	count := func(*sock.Socket, sock.Instant) { seen++ }
	err := c.dump(unix.AF_UNSPEC, &pass{states: q.States, filter: bad}, count)
	if !refused(err) || !errors.Is(err, unix.EINVAL) {
		t.Fatalf("error %v, want a refusal with EINVAL", err)
	}
	// The refusal was an answer in full: the same link goes on.
	check(t, c.dump(unix.AF_UNSPEC, &pass{states: q.States}, count))
	if seen != 2 {
		t.Errorf("saw %d sockets, want 2", seen)
	}
}

func TestKeepaliveTimer(t *testing.T) {
	c := openKernel(t)
	leak := closeWait(t, nstest.V4, nstest.ServerSide, 1)
	if s := only(t, c, ssfilter.CloseWait); s.Timer != sock.TimerOff {
		t.Errorf("timer %d without keepalives, want none", s.Timer)
	}
	check(t, leak.Stuck[0].Keepalive())
	s := only(t, c, ssfilter.CloseWait)
	if s.Timer != sock.TimerKeepalive || s.Expires <= 0 || s.Expires > time.Second {
		t.Errorf("timer %d in %v, want keepalive within a second", s.Timer, s.Expires)
	}
}

// The timer of keepalives also ends an orphan in FIN_WAIT2 that is to stay for longer than
// TIME_WAIT lasts: it shows nothing of SO_KEEPALIVE there.
func TestKeepaliveTimerOfAnOrphan(t *testing.T) {
	c := openKernel(t)
	p := pair(t, listen(t, nstest.V4))
	defer p.Server.Close()
	check(t, unix.SetsockoptInt(int(p.Client), unix.IPPROTO_TCP, unix.TCP_LINGER2, 100))
	check(t, p.Client.Close())
	if s := only(t, c, ssfilter.FinWait2); s.Timer != sock.TimerKeepalive || !s.Orphan() {
		t.Errorf("%+v, want an orphan with the timer of keepalives", s)
	}
}

func TestTimeWait(t *testing.T) {
	for name, addr := range map[string]netip.Addr{"v4": nstest.V4, "v6": nstest.V6, "mapped": nstest.Mapped} {
		t.Run(name, func(t *testing.T) {
			c := openKernel(t)
			p := pair(t, listen(t, addr))
			cookie := must(p.Client.Cookie())(t)
			src := unmap(must(p.Client.Local())(t))
			check(t, p.Close())

			s := only(t, c, ssfilter.TimeWait)
			if !s.Minisocket() || s.Src != src || s.ID.Cookie != cookie || s.Inode != 0 || s.Info.Has != 0 {
				t.Errorf("scan: %+v, want a minisocket at %v with cookie %d", s, src, cookie)
			}
			if s.Expires <= 50*time.Second || s.Expires > 60*time.Second {
				t.Errorf("expires in %v, want just under a minute", s.Expires)
			}
			a := ask(t, c, s.ID)
			if a.Err != nil || a.Gone || a.Socket.State != ssfilter.TimeWait || a.Socket.ID != s.ID {
				t.Errorf("answer %+v, want the same socket", a)
			}
			check(t, destroy(t, c, s.ID))
			if a := ask(t, c, s.ID); !a.Gone {
				t.Errorf("after destroying it: %+v, want gone", a)
			}
		})
	}
}

func TestFinWait2(t *testing.T) {
	t.Run("live", func(t *testing.T) {
		c := openKernel(t)
		p := pair(t, listen(t, nstest.V4))
		defer p.Close()
		check(t, p.Client.CloseWrite())
		check(t, p.Client.Await(unix.BPF_TCP_FIN_WAIT2))
		check(t, p.Server.Send(1000)) // a half-closed connection is in use
		check(t, p.Client.Receive(1000))
		s := only(t, c, ssfilter.FinWait2)
		if s.Minisocket() || s.Inode != must(p.Client.Inode())(t) || s.Info.BytesReceived != 1000 {
			t.Errorf("%+v, want a full socket with its inode and 1000 bytes received", s)
		}
	})
	t.Run("minisocket", func(t *testing.T) {
		c := openKernel(t)
		p := pair(t, listen(t, nstest.V4))
		defer p.Server.Close()
		check(t, p.Client.Close())
		s := only(t, c, ssfilter.FinWait2)
		if !s.Minisocket() || s.Inode != 0 || s.Info.Has != 0 {
			t.Errorf("%+v, want a minisocket", s)
		}
		if a := ask(t, c, s.ID); a.Err != nil || a.Gone || a.Socket.State != ssfilter.FinWait2 {
			t.Errorf("answer %+v, want the same socket", a)
		}
	})
}

func TestAcceptQueue(t *testing.T) {
	c := openKernel(t)
	l := listen(t, nstest.V4)
	client := must(nstest.Connect(must(l.Local())(t)))(t)
	check(t, client.Close())
	s := only(t, c, ssfilter.CloseWait)
	if s.Inode != 0 || s.Minisocket() {
		t.Errorf("%+v, want a full socket without an inode", s)
	}
	if waiting := only(t, c, ssfilter.Listening); waiting.RQueue != 1 || waiting.Info.Has != 0 {
		t.Errorf("listener %+v, want one connection in its queue and no tcp_info", waiting)
	}
}

func TestDeadPeer(t *testing.T) {
	c := openKernel(t)
	p := pair(t, listen(t, nstest.V4))
	defer p.Close()
	check(t, p.Client.CloseWrite())
	check(t, p.Client.Await(unix.BPF_TCP_FIN_WAIT2))
	check(t, p.Client.Deafen())
	check(t, p.Server.Send(1000))
	s := only(t, c, ssfilter.CloseWait)
	if s.WQueue != 1000 || s.Info.Unacked == 0 || s.Info.BytesAcked != 0 || s.Timer != sock.TimerRetransmit {
		t.Errorf("%+v, want 1000 bytes queued, sent again and none acknowledged", s)
	}
}

// A bound socket may be connected again, to the same peer, under the same cookie.
func TestReconnect(t *testing.T) {
	c := openKernel(t)
	l := listen(t, nstest.V4)
	to := must(l.Local())(t)
	s := must(nstest.New(nstest.V4, unix.IPPROTO_TCP))(t)
	defer s.Close()
	check(t, s.Bind(netip.AddrPortFrom(nstest.V4, 5432))) // the kernel forgets a port that it chose itself
	check(t, s.Connect(to))
	server := must(l.Accept())(t)
	check(t, server.Send(10))
	check(t, s.Receive(10))
	check(t, server.Close())
	check(t, s.Await(unix.BPF_TCP_CLOSE_WAIT))
	before := only(t, c, ssfilter.CloseWait)

	check(t, s.Disconnect())
	check(t, s.Connect(to))
	after := ask(t, c, before.ID)
	if after.Err != nil || after.Gone || after.Socket.ID != before.ID {
		t.Fatalf("%+v, want a socket with the same ID %+v", after, before.ID)
	}
	if after.Socket.State != ssfilter.Established || after.Socket.Info.BytesReceived >= before.Info.BytesReceived {
		t.Errorf("%v with %d bytes received, want established with none", after.Socket.State, after.Socket.Info.BytesReceived)
	}
}

func TestMPTCP(t *testing.T) {
	c := openKernel(t)
	l := must(nstest.ListenAt(netip.AddrPortFrom(nstest.V4, 0), unix.IPPROTO_MPTCP))(t)
	defer l.Close()
	client := must(nstest.New(nstest.V4, unix.IPPROTO_MPTCP))(t)
	defer client.Close()
	check(t, client.Connect(must(l.Local())(t)))
	server := must(l.Accept())(t)
	defer server.Close()
	p := pair(t, listen(t, nstest.V4))
	defer p.Close()

	subflows, plain := 0, 0
	for _, s := range scan(t, c, sock.Query{States: ssfilter.Of(ssfilter.Established)}) {
		if s.MPTCP {
			subflows++
		} else {
			plain++
		}
	}
	if subflows != 2 || plain != 2 {
		t.Errorf("%d subflows and %d plain connections, want 2 ends of each", subflows, plain)
	}
}

func TestDestroy(t *testing.T) {
	c := openKernel(t)
	for name, addr := range map[string]netip.Addr{"v4": nstest.V4, "v6": nstest.V6, "mapped": nstest.Mapped} {
		leak := must(nstest.CloseWait(addr, nstest.ServerSide, 2))(t)
		cookie := must(leak.Stuck[0].Cookie())(t)
		for _, s := range scan(t, c, sock.Query{States: ssfilter.Of(ssfilter.CloseWait)}) {
			if s.ID.Cookie != cookie {
				continue
			}
			if err := destroy(t, c, s.ID); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if err := destroy(t, c, s.ID); !errors.Is(err, sock.ErrGone) {
				t.Errorf("%s, again: %v, want %v", name, err, sock.ErrGone)
			}
		}
		left := scan(t, c, sock.Query{States: ssfilter.Of(ssfilter.CloseWait, ssfilter.Listening)})
		if len(left) != 2 {
			t.Errorf("%s: %d sockets left, want the other one and the listener", name, len(left))
		}
		check(t, leak.Close())
	}
}

// A socket that is bound to an interface is found only with that interface.
func TestInterface(t *testing.T) {
	c := openKernel(t)
	l := listen(t, nstest.V4)
	check(t, unix.BindToDevice(int(l), "lo"))
	p := pair(t, l)
	defer p.Server.Close()
	check(t, p.Client.Close())
	s := only(t, c, ssfilter.CloseWait)
	if s.ID.Iface != 1 {
		t.Errorf("interface %d, want 1", s.ID.Iface)
	}
	if a := ask(t, c, s.ID); a.Gone || a.Err != nil || a.Socket.ID != s.ID {
		t.Errorf("answer %+v, want the same socket", a)
	}
	check(t, destroy(t, c, s.ID))
}

// What has the addresses of a dead socket is not that socket.
func TestDestroyReusedAddresses(t *testing.T) {
	c := openKernel(t)
	l := listen(t, nstest.V4)
	p := pair(t, l)
	from, to := must(p.Client.Local())(t), must(l.Local())(t)
	id := must(p.Client.Cookie())(t)
	var old sock.ID
	for _, s := range scan(t, c, sock.Query{States: ssfilter.Of(ssfilter.Established)}) {
		if s.ID.Cookie == id {
			old = s.ID
		}
	}
	check(t, p.Client.Abort())
	check(t, p.Server.Abort())

	again := must(nstest.New(nstest.V4, unix.IPPROTO_TCP))(t)
	defer again.Close()
	check(t, again.Bind(from))
	check(t, again.Connect(to))
	server := must(l.Accept())(t)
	defer server.Close()

	if a := ask(t, c, old); !a.Gone {
		t.Errorf("answer %+v, want gone", a)
	}
	if err := destroy(t, c, old); !errors.Is(err, sock.ErrGone) {
		t.Errorf("outcome %v, want %v", err, sock.ErrGone)
	}
	// Nor is the listener, which the kernel falls back to where no connection has
	// the addresses.
	check(t, again.Abort())
	check(t, server.Abort())
	if err := destroy(t, c, old); !errors.Is(err, sock.ErrGone) {
		t.Errorf("outcome %v, want %v", err, sock.ErrGone)
	}
	p = pair(t, l)
	check(t, p.Close())
}

func TestDestroyNeverGuesses(t *testing.T) {
	c := openKernel(t)
	l := listen(t, nstest.V4)
	listener := only(t, c, ssfilter.Listening).ID
	unknown, none := listener, listener
	binary.BigEndian.PutUint16(unknown.DPort[:], 1)
	binary.BigEndian.PutUint16(none.DPort[:], 1)
	unknown.Cookie, none.Cookie = noCookie, 0

	s := &sendCounter{link: c.link}
	c.link = s
	outcomes := destroyAll(c, []sock.ID{listener, unknown, none})
	want := []error{errNotConnected, errNoCookie, errNoCookie}
	if !slices.Equal(outcomes, want) {
		t.Errorf("outcomes %v, want %v", outcomes, want)
	}
	if s.sent != 0 {
		t.Errorf("%d requests were sent, want none", s.sent)
	}
	p := pair(t, l)
	check(t, p.Close())
}

type sendCounter struct {
	link
	sent int
}

func (s *sendCounter) send(b []byte) error { s.sent++; return s.link.send(b) }

// The outcomes of a large number, with failures anywhere, the last ones included.
func TestDestroyMany(t *testing.T) {
	const n = 1000
	c := openKernel(t)
	closeWait(t, nstest.V4, nstest.ServerSide, n)
	var ids []sock.ID
	for _, s := range scan(t, c, sock.Query{States: ssfilter.Of(ssfilter.CloseWait)}) {
		ids = append(ids, s.ID)
	}
	if len(ids) != n {
		t.Fatalf("%d sockets, want %d", len(ids), n)
	}
	want := make([]error, n)
	for _, i := range []int{0, 5, 127, 128, 254, 255, 256, 300, 301, 302, n - 1} {
		ids[i].Cookie += 1 << 40
		want[i] = sock.ErrGone
	}
	outcomes := destroyAll(c, ids)
	if diff := cmp.Diff(want, outcomes, cmpopts.EquateErrors()); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	left := scan(t, c, sock.Query{States: ssfilter.Of(ssfilter.CloseWait)})
	if len(left) != 11 {
		t.Errorf("%d sockets left, want 11", len(left))
	}
	answers := must(c.Lookup(ids, nil))(t)
	for i, a := range answers {
		if !a.Gone || a.Err != nil || a.ID != ids[i] {
			t.Fatalf("answer %d: %+v, want gone", i, a)
		}
	}
}

func TestLookupMany(t *testing.T) {
	const n = 300
	c := openKernel(t)
	closeWait(t, nstest.V6, nstest.ClientSide, n)
	seen := scan(t, c, sock.Query{States: ssfilter.Of(ssfilter.CloseWait)})
	var ids []sock.ID
	for _, s := range seen {
		ids = append(ids, s.ID)
	}
	ids[7].Cookie = 0
	answers := must(c.Lookup(ids, nil))(t)
	for i, a := range answers {
		switch {
		case i == 7 && !errors.Is(a.Err, errNoCookie):
			t.Errorf("answer without a cookie: %+v", a)
		case i != 7 && (a.Err != nil || a.Gone || a.Socket.ID != seen[i].ID || a.Got < a.Sent || a.Sent == 0):
			t.Fatalf("answer %d: %+v, want %+v", i, a, seen[i])
		}
	}
}

// narrow gives the link the smallest receive buffer that the kernel allows.
func narrow(t *testing.T, c *Conn) *kernelLink {
	t.Helper()
	l := c.link.(*kernelLink)
	check(t, unix.SetsockoptInt(l.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1))
	return l
}

// A batch is no larger than the room for its answers, and where there is less room
// than thought nobody takes a lost answer for a good one.
func TestReceiveBufferTooSmall(t *testing.T) {
	const n = 100
	setUp := func(t *testing.T) (*Conn, []sock.ID) {
		c := openKernel(t)
		closeWait(t, nstest.V4, nstest.ServerSide, n)
		var ids []sock.ID
		for _, s := range scan(t, c, sock.Query{States: ssfilter.Of(ssfilter.CloseWait)}) {
			s.ID.Cookie += 1 << 40 // so that each of them has an answer
			ids = append(ids, s.ID)
		}
		return c, ids
	}
	t.Run("known", func(t *testing.T) {
		c, ids := setUp(t)
		l := narrow(t, c)
		l.room = must(unix.GetsockoptInt(l.fd, unix.SOL_SOCKET, unix.SO_RCVBUF))(t)
		for i, err := range destroyAll(c, ids) {
			if !errors.Is(err, sock.ErrGone) {
				t.Fatalf("outcome %d: %v, want %v", i, err, sock.ErrGone)
			}
		}
		for i, a := range must(c.Lookup(ids, nil))(t) {
			if !a.Gone {
				t.Fatalf("answer %d: %+v, want gone", i, a)
			}
		}
	})
	t.Run("unknown to Lookup", func(t *testing.T) {
		c, ids := setUp(t)
		narrow(t, c)
		answers, err := c.Lookup(ids, nil)
		if !errors.Is(err, unix.ENOBUFS) {
			t.Errorf("error %v, want %v", err, unix.ENOBUFS)
		}
		for i, a := range answers {
			if !errors.Is(a.Err, err) {
				t.Fatalf("answer %d: %+v, want that error", i, a)
			}
		}
		for i, a := range must(c.Lookup(ids, answers))(t) {
			if !a.Gone {
				t.Fatalf("asked again, answer %d: %+v, want gone", i, a)
			}
		}
	})
	t.Run("unknown to Destroy", func(t *testing.T) {
		c, ids := setUp(t)
		narrow(t, c)
		for i, err := range destroyAll(c, ids) { // each has the room for its own answer
			if !errors.Is(err, sock.ErrGone) {
				t.Fatalf("outcome %d: %v, want %v", i, err, sock.ErrGone)
			}
		}
	})
}

func TestProbe(t *testing.T) {
	c := openKernel(t)
	l := listen(t, nstest.V4)
	p := pair(t, l)
	defer p.Close()
	before := len(scan(t, c, sock.Query{States: ssfilter.AllStates}))
	capabilities := must(c.Probe())(t)
	if want := (Capabilities{OneWalk: true}); capabilities != want {
		t.Errorf("capabilities %+v, want %+v", capabilities, want)
	}
	if after := len(scan(t, c, sock.Query{States: ssfilter.AllStates})); after != before {
		t.Errorf("%d sockets before the probe, %d after", before, after)
	}
}

func TestProbeWithoutLoopback(t *testing.T) {
	c := openKernel(t)
	lo := must(unix.NewIfreq("lo"))(t)
	fd := must(unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0))(t)
	defer unix.Close(fd)
	check(t, lo.SetInet4Addr([]byte{10, 0, 0, 1})) // in place of 127.0.0.1
	check(t, unix.IoctlIfreq(fd, unix.SIOCSIFADDR, lo))
	lo.SetUint16(0) // down
	check(t, unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo))
	capabilities := must(c.Probe())(t)
	if capabilities.Destroy != nil || capabilities.DestroyTimeWait == nil {
		t.Errorf("capabilities %+v, want to destroy, and not to know of TIME_WAIT", capabilities)
	}
}

// sockdog is started just where the ports are used up.
func TestProbeWithoutPorts(t *testing.T) {
	const ports = 10
	setUp := func(t *testing.T) *Conn {
		c := openKernel(t)
		check(t, nstest.Sysctl("net.ipv4.ip_local_port_range", "20000 20009"))
		return c
	}
	t.Run("of 127.0.0.1", func(t *testing.T) {
		c := setUp(t)
		server := must(nstest.ListenAt(netip.AddrPortFrom(nstest.V4, 5432), unix.IPPROTO_TCP))(t)
		defer server.Close()
		for range ports {
			p := pair(t, server)
			check(t, p.Client.CloseWrite())
			check(t, p.Server.Close())
			check(t, p.Client.Close()) // in TIME_WAIT
		}
		s := must(nstest.New(nstest.V4, unix.IPPROTO_TCP))(t)
		defer s.Close()
		if err := s.Bind(netip.AddrPortFrom(nstest.V4, 0)); !errors.Is(err, unix.EADDRINUSE) {
			t.Fatalf("bind to 127.0.0.1: %v, want %v", err, unix.EADDRINUSE)
		}
		capabilities := must(c.Probe())(t)
		if want := (Capabilities{OneWalk: true}); capabilities != want {
			t.Errorf("capabilities %+v, want %+v", capabilities, want)
		}
		if left := len(scan(t, c, sock.Query{States: ssfilter.AllStates})); left != ports+1 {
			t.Errorf("%d sockets after the probe, want %d in TIME_WAIT and a listener", left, ports)
		}
	})
	t.Run("of every address", func(t *testing.T) {
		c := setUp(t)
		for range ports {
			fd := must(unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP))(t)
			defer unix.Close(fd)
			check(t, unix.Bind(fd, &unix.SockaddrInet4{}))
		}
		capabilities := must(c.Probe())(t)
		if !capabilities.OneWalk || !errors.Is(capabilities.Destroy, unix.EADDRINUSE) || !errors.Is(capabilities.DestroyTimeWait, unix.EADDRINUSE) {
			t.Errorf("capabilities %+v, want to read, and not to know the rest: %v", capabilities, unix.EADDRINUSE)
		}
	})
}

// The fast path of tcp_rcv_established stamps last_data_recv alone: received data
// ends idleness by the younger of the two stamps, never by last_ack_recv.
func TestReceivedDataIsStamped(t *testing.T) {
	c := openKernel(t)
	p := pair(t, listen(t, nstest.V4))
	defer p.Close()
	check(t, unix.SetsockoptInt(int(p.Client), unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
	cookie := must(p.Server.Cookie())(t)
	jiffy, misled := Precision(), 0
	for range 20 {
		time.Sleep(2 * jiffy) // so that the stamps can differ
		sent := time.Now()
		check(t, p.Client.Send(1)) // and never read: then the fast path is open
		check(t, c.Scan(sock.Query{States: ssfilter.Of(ssfilter.Established)}, func(s *sock.Socket, _ sock.Instant) {
			if s.ID.Cookie != cookie {
				return
			}
			limit := time.Since(sent) + jiffy
			if quiet := min(s.Info.LastDataRecv, s.Info.LastAckRecv); quiet > limit {
				t.Errorf("nothing received for %v, %v after data came", quiet, limit)
			}
			if s.Info.LastAckRecv > limit {
				misled++
			}
		}))
	}
	t.Logf("last_ack_recv alone would have misled %d times of 20", misled)
}

// TestSilence: what the peer acknowledges does not stamp last_data_recv, and what it sends
// does; before that it counts from the handshake, on both sides.
func TestSilence(t *testing.T) {
	c := openKernel(t)
	began := time.Now()
	p := pair(t, listen(t, nstest.V4))
	defer p.Close()
	client := must(p.Client.Cookie())(t)
	infoOf := func(cookie uint64) (info sock.Info) {
		for _, s := range scan(t, c, sock.Query{States: ssfilter.Of(ssfilter.Established)}) {
			if s.ID.Cookie == cookie {
				info = s.Info
			}
		}
		return info
	}
	silence := func() sock.Info {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			check(t, p.Client.Send(1)) // which the server's kernel acknowledges
			check(t, p.Server.Receive(1))
			info := infoOf(client)
			if info.LastDataRecv >= 200*time.Millisecond && info.LastAckRecv < 100*time.Millisecond {
				return info
			}
			if time.Now().After(deadline) {
				t.Fatalf("data came %v ago and an acknowledgement %v ago", info.LastDataRecv, info.LastAckRecv)
			}
		}
	}
	info := silence()
	if most := time.Since(began) + Precision(); info.LastDataRecv > most {
		t.Errorf("silent for %v, %v after the connection began", info.LastDataRecv, most)
	}
	accepted := pair(t, listen(t, nstest.V6))
	defer accepted.Close()
	if info := infoOf(must(accepted.Server.Cookie())(t)); info.LastDataRecv > time.Since(began)+Precision() || info.Has&sock.HasLastDataRecv == 0 {
		t.Errorf("an accepted connection is silent for %v", info.LastDataRecv)
	}
	began = time.Now()
	check(t, p.Server.Send(1))
	check(t, p.Client.Receive(1))
	if info = infoOf(client); info.BytesReceived != 1 || info.LastDataRecv > time.Since(began)+Precision() {
		t.Errorf("%+v after a byte was received", info)
	}
}

func TestPrecision(t *testing.T) {
	if j := Precision() - lateTick; j < time.Millisecond || j > 10*time.Millisecond {
		t.Errorf("jiffy of %v, want one of HZ=100, 250, 300 or 1000", j)
	}
}

// A socket's key names the network namespace of the Conn that shows it, wherever
// the caller's thread has gone since.
func TestKey(t *testing.T) {
	c := openKernel(t)
	cookie := must(closeWait(t, nstest.V4, nstest.ServerSide, 1).Stuck[0].Cookie())(t)
	want := sock.Key{Netns: netns.Inode(), Cookie: cookie}
	check(t, unix.Unshare(unix.CLONE_NEWNET))
	if want.Netns == 0 || want.Netns == netns.Inode() {
		t.Errorf("network namespaces %d and %d, want two different ones", want.Netns, netns.Inode())
	}
	s := only(t, c, ssfilter.CloseWait)
	if got := s.ID.Key(); got != want {
		t.Errorf("key of the scan %v, want %v", got, want)
	}
	if a := ask(t, c, s.ID); a.Socket.ID != s.ID {
		t.Errorf("asked for %v, answered with %v", s.ID, a.Socket.ID)
	}
}

// Nobody but the kernel can answer.
func TestOnlyTheKernelIsHeard(t *testing.T) {
	c := openKernel(t)
	fd := must(unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG))(t)
	defer unix.Close(fd)
	forged := appendHeader(nil, unix.NLMSG_DONE, 0, 1, 0)
	err := unix.Sendto(fd, forged, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: c.link.port()})
	if err != unix.ECONNREFUSED {
		t.Errorf("a message from another process: %v, want %v", err, unix.ECONNREFUSED)
	}
}
