package sockdiag

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Abilities is what this kernel lets this thread do in this network namespace.
type Capabilities struct {
	// OneWalk: a dump of both families costs one walk of the socket table.
	OneWalk bool

	// Destroy is nil where sockets can be destroyed, unix.EPERM without
	// CAP_NET_ADMIN in the user namespace that owns the network namespace,
	// unix.EOPNOTSUPP where the kernel lacks CONFIG_INET_DIAG_DESTROY, and another
	// error where there was no socket of our own to try it on.
	Destroy error

	// DestroyTimeWait is the same for sockets in TIME_WAIT, which kernels before
	// 6.0 leave alone with unix.EOPNOTSUPP.
	DestroyTimeWait error
}

// Probe finds out by doing: it opens sockets of its own on a loopback address,
// finds them and destroys them, and touches no other. An error means that sock_diag
// does not work at all. Only the TIME_WAIT part needs the loopback interface to be
// up.
func (c *Conn) Probe() (Capabilities, error) {
	capabilities, err := c.probe()
	if err != nil {
		return Capabilities{}, fmt.Errorf("probe sock_diag with a socket of our own: %w", err)
	}
	return capabilities, nil
}

func (c *Conn) probe() (capabilities Capabilities, err error) {
	listening := sock.Query{States: ssfilter.Of(ssfilter.Listening)}
	listener, err := listenLoopback()
	if err != nil { // the socket table may be readable all the same
		capabilities.Destroy = fmt.Errorf("whether sockets can be destroyed is not known: %w", err)
		capabilities.DestroyTimeWait = capabilities.Destroy
		err = c.Scan(listening, func(*sock.Socket, sock.Instant) {})
		capabilities.OneWalk = !c.perFamily
		return capabilities, err
	}
	defer unix.Close(listener)

	// While there is a listener to connect to.
	timeWait, timeWaitErr := makeTimeWait(listener)

	cookie, err := unix.GetsockoptUint64(listener, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		return capabilities, fmt.Errorf("read its cookie: %w", err)
	}
	var id sock.ID
	err = c.Scan(listening, func(s *sock.Socket, _ sock.Instant) {
		if s.ID.Cookie == cookie {
			id = s.ID
		}
	})
	if err != nil {
		return capabilities, err
	}
	if id.Cookie != cookie {
		return capabilities, errors.New("the kernel does not show it")
	}
	capabilities.OneWalk = !c.perFamily
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

// listenLoopback opens a listener that only this host can reach.
func listenLoopback() (int, error) {
	fd, err := bindLoopback(ownAddress())
	if err != nil {
		return -1, err
	}
	if err := unix.Listen(fd, 1); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("listen on a loopback address: %w", err)
	}
	return fd, nil
}

// ownAddress is one of 127.0.0.0/8 that nobody else is likely to use. A port is
// taken per address (inet_csk_bind_conflict): the ports of 127.0.0.1 are used up
// just where a program floods a server on its own host.
func ownAddress() [4]byte {
	among := func(n int) byte { return byte(1 + rand.IntN(n)) }
	return [4]byte{127, among(254), among(254), among(254)} // neither the network's own address nor its broadcast
}

// bindLoopback opens a socket on any port of addr. IP_FREEBIND lets it have the
// address where the loopback interface does not.
func bindLoopback(addr [4]byte) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return -1, fmt.Errorf("open a socket: %w", err)
	}
	if err = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_FREEBIND, 1); err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Addr: addr})
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("bind a socket to the loopback address %v: %w", netip.AddrFrom4(addr), err)
	}
	return fd, nil
}

// makeTimeWait connects to the listener and closes both ends, the connecting one
// first, and returns what that leaves in TIME_WAIT.
func makeTimeWait(listener int) (sock.ID, error) {
	to, err := localAddress(listener)
	if err != nil {
		return sock.ID{}, err
	}
	// From the address that it leads to: there are ports left, and a route that
	// leads elsewhere is refused.
	fd, err := bindLoopback(to.Addr)
	if err != nil {
		return sock.ID{}, err
	}
	defer unix.Close(fd)
	patience := unix.NsecToTimeval(time.Second.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &patience); err != nil {
		return sock.ID{}, fmt.Errorf("limit the time to connect: %w", err)
	}
	err = unix.EINTR
	for errors.Is(err, unix.EINTR) { // a socket with SO_SNDTIMEO is not restarted; asked again it goes on
		err = unix.Connect(fd, to)
	}
	if err != nil {
		return sock.ID{}, fmt.Errorf("connect to a loopback address (is the loopback interface up?): %w", err)
	}
	from, err := localAddress(fd)
	if err != nil {
		return sock.ID{}, err
	}
	id := sock.ID{Family: unix.AF_INET}
	copy(id.Src[:], from.Addr[:])
	copy(id.Dst[:], to.Addr[:])
	binary.BigEndian.PutUint16(id.SPort[:], uint16(from.Port))
	binary.BigEndian.PutUint16(id.DPort[:], uint16(to.Port))
	if id.Cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE); err != nil {
		return sock.ID{}, fmt.Errorf("read the socket's cookie: %w", err)
	}

	// The connecting end closes first, so that the TIME_WAIT is its own. It enters
	// that state with the peer's FIN, its descriptor open or not (tcp_fin).
	if err := unix.Shutdown(fd, unix.SHUT_WR); err != nil {
		return sock.ID{}, fmt.Errorf("close the connection: %w", err)
	}
	peer, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
	if err != nil {
		return sock.ID{}, fmt.Errorf("accept the connection: %w", err)
	}
	unix.Close(peer)
	return id, nil
}

func localAddress(fd int) (*unix.SockaddrInet4, error) {
	at, err := unix.Getsockname(fd)
	if err != nil {
		return nil, fmt.Errorf("read the address of a socket: %w", err)
	}
	return at.(*unix.SockaddrInet4), nil
}
