package sockdiag

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Capabilities is what this kernel lets this thread do in this network namespace.
type Capabilities struct {
	// OneWalk: a dump of both families costs one walk of the socket table.
	OneWalk bool

	// Destroy is nil where sockets can be destroyed, unix.EPERM without
	// CAP_NET_ADMIN in the user namespace that owns the network namespace,
	// unix.EOPNOTSUPP where the kernel lacks CONFIG_INET_DIAG_DESTROY, and another
	// error where there was no socket of our own to try it on.
	Destroy error

	// DestroyTimeWait is the same for sockets in TIME_WAIT, and minisockets in
	// FIN_WAIT2, which kernels before 6.0 leave alone with unix.EOPNOTSUPP.
	DestroyTimeWait error
}

// Probe finds out by doing: it opens sockets of its own on a loopback address,
// finds them and destroys them, and touches no other. An error means that sock_diag
// does not work at all. Only the TIME_WAIT part needs the loopback interface to be
// up.
func (c *Conn) Probe() (capabilities Capabilities, err error) {
	defer func() {
		if err != nil {
			capabilities, err = Capabilities{}, fmt.Errorf("probe sock_diag with a socket of our own: %w", err)
		}
	}()
	if err := c.Scan(sock.Query{States: ssfilter.Of(ssfilter.Listening)}, func(*sock.Socket, sock.Instant) {}); err != nil {
		return capabilities, err
	}
	capabilities.OneWalk = !c.perFamily
	listener, err := listenLoopback()
	if err != nil { // the socket table may be readable all the same
		capabilities.Destroy = fmt.Errorf("whether sockets can be destroyed is not known: %w", err)
		capabilities.DestroyTimeWait = capabilities.Destroy
		return capabilities, nil
	}
	defer listener.Close()

	// While there is a listener to connect to.
	timeWait, timeWaitErr := makeTimeWait(listener)

	id, err := ownID(listener, listener.Addr().(*net.TCPAddr).AddrPort(), netip.AddrPort{})
	if err != nil {
		return capabilities, err
	}
	if capabilities.Destroy, err = c.destroyOwn(id); err != nil {
		return capabilities, err
	}
	switch {
	case capabilities.Destroy != nil:
		capabilities.DestroyTimeWait = capabilities.Destroy
	case timeWaitErr != nil:
		capabilities.DestroyTimeWait = fmt.Errorf("whether sockets in time-wait can be destroyed is not known: %w", timeWaitErr)
	default:
		capabilities.DestroyTimeWait, err = c.destroyOwn(timeWait)
	}
	return capabilities, err
}

// destroyOwn destroys a socket that is our own, be it a listening one.
func (c *Conn) destroyOwn(id sock.ID) (outcome, err error) {
	if outcome := c.destroy(&id); errors.Is(outcome, sock.ErrUnconfirmed) {
		return nil, outcome
	} else if outcome != nil {
		return outcome, nil
	}
	answers, err := c.Lookup([]sock.ID{id}, nil)
	if err != nil {
		return nil, err
	}
	if !answers[0].Gone {
		return errors.New("the kernel said that it destroyed a socket, and did not"), nil
	}
	return nil, nil
}

// ownAddress is one of 127.0.0.0/8 that nobody else is likely to use. A port is
// taken per address (inet_csk_bind_conflict): the ports of 127.0.0.1 are used up
// just where a program floods a server on its own host.
func ownAddress() netip.Addr {
	among := func(n int) byte { return byte(1 + rand.IntN(n)) }
	return netip.AddrFrom4([4]byte{127, among(254), among(254), among(254)}) // neither the network's own address nor its broadcast
}

// freeBind lets a socket have an address where the loopback interface does not.
func freeBind(_, _ string, c syscall.RawConn) error {
	var err error
	return errors.Join(c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1) }), err)
}

// listenLoopback opens a listener that only this host can reach.
func listenLoopback() (*net.TCPListener, error) {
	config := net.ListenConfig{Control: freeBind}
	config.SetMultipathTCP(false)
	l, err := config.Listen(context.Background(), "tcp4", netip.AddrPortFrom(ownAddress(), 0).String())
	if err != nil {
		return nil, fmt.Errorf("listen on a loopback address: %w", cause(err))
	}
	return l.(*net.TCPListener), nil
}

// cause returns what package net says of an error beside the addresses.
func cause(err error) error {
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		return op.Err
	}
	return err
}

// makeTimeWait connects to the listener and closes both ends, the connecting one
// first, and returns what that leaves in TIME_WAIT.
func makeTimeWait(listener *net.TCPListener) (sock.ID, error) {
	to := listener.Addr().(*net.TCPAddr)
	// From the address that it leads to: there are ports left, and a route that
	// leads elsewhere is refused.
	dialer := net.Dialer{Timeout: time.Second, LocalAddr: &net.TCPAddr{IP: to.IP}, Control: freeBind}
	c, err := dialer.Dial("tcp4", to.String())
	if err != nil {
		return sock.ID{}, fmt.Errorf("connect to a loopback address (is the loopback interface up?): %w", cause(err))
	}
	defer c.Close()
	conn := c.(*net.TCPConn)
	id, err := ownID(conn, conn.LocalAddr().(*net.TCPAddr).AddrPort(), to.AddrPort())
	if err != nil {
		return sock.ID{}, err
	}
	// The connecting end closes first, so that the TIME_WAIT is its own. It enters
	// that state with the peer's FIN, its descriptor open or not (tcp_fin).
	if err := conn.CloseWrite(); err != nil {
		return sock.ID{}, fmt.Errorf("close the connection: %w", err)
	}
	peer, err := listener.Accept()
	if err != nil {
		return sock.ID{}, fmt.Errorf("accept the connection: %w", err)
	}
	peer.Close()
	return id, nil
}

// ownID is the ID of a socket of our own; a listening one has no peer.
func ownID(s syscall.Conn, local, peer netip.AddrPort) (sock.ID, error) {
	id := idOf(local, peer)
	var failed error
	c, err := s.SyscallConn()
	if err == nil {
		err = c.Control(func(fd uintptr) { id.Cookie, failed = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_COOKIE) })
	}
	if err = errors.Join(err, failed); err != nil {
		return sock.ID{}, fmt.Errorf("read the socket's cookie: %w", err)
	}
	return id, nil
}
