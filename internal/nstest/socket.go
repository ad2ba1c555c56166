package nstest

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Loopback addresses of the three kinds of TCP socket. A connection to Mapped
// has an AF_INET6 socket with IPv4-mapped addresses at both ends.
var (
	V4     = netip.MustParseAddr("127.0.0.1")
	V6     = netip.MustParseAddr("::1")
	Mapped = netip.MustParseAddr("::ffff:127.0.0.1")
)

// patience bounds every wait for the kernel.
const patience = 10 * time.Second

// Socket is the descriptor of a TCP socket, blocking and without what package
// net does to its own: no keepalives, no MPTCP listener, no poller.
type Socket int

// New opens a socket that suits addr. Protocol is IPPROTO_TCP or IPPROTO_MPTCP.
func New(addr netip.Addr, protocol int) (Socket, error) {
	family := unix.AF_INET6
	if addr.Is4() {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return -1, fmt.Errorf("open a TCP socket: %w", err)
	}
	// Nothing here may hang a test for ever.
	wait := unix.NsecToTimeval(patience.Nanoseconds())
	return Socket(fd).orClose(errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
	))
}

// orClose closes the socket where setting it up failed.
func (s Socket) orClose(err error) (Socket, error) {
	if err != nil {
		unix.Close(int(s))
		return -1, err
	}
	return s, nil
}

// Listen opens a listener on a free port of addr.
func Listen(addr netip.Addr) (Socket, error) {
	return ListenAt(netip.AddrPortFrom(addr, 0), unix.IPPROTO_TCP)
}

// ListenAt opens a listener on an address and a port.
func ListenAt(at netip.AddrPort, protocol int) (Socket, error) {
	s, err := New(at.Addr(), protocol)
	if err != nil {
		return -1, err
	}
	if err = s.Bind(at); err == nil {
		err = unix.Listen(int(s), 4096)
	}
	return s.orClose(err)
}

// Connect opens a connection to an address and a port.
func Connect(to netip.AddrPort) (Socket, error) {
	s, err := New(to.Addr(), unix.IPPROTO_TCP)
	if err != nil {
		return -1, err
	}
	return s.orClose(s.Connect(to))
}

// Bind gives the socket its local address.
func (s Socket) Bind(at netip.AddrPort) error {
	if err := unix.Bind(int(s), Sockaddr(at)); err != nil {
		return fmt.Errorf("bind to %v: %w", at, err)
	}
	return nil
}

// ignoringEINTR makes a system call again until no signal interrupts it.
func ignoringEINTR(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// Connect connects the socket.
func (s Socket) Connect(to netip.AddrPort) error {
	// Interrupted, and called again, connect(2) goes on waiting on Linux.
	if err := ignoringEINTR(func() error { return unix.Connect(int(s), Sockaddr(to)) }); err != nil {
		return fmt.Errorf("connect to %v: %w", to, err)
	}
	return nil
}

// BeginConnect sends the SYN and does not wait for the answer.
func (s Socket) BeginConnect(to netip.AddrPort) error {
	if err := unix.SetNonblock(int(s), true); err != nil {
		return err
	}
	if err := unix.Connect(int(s), Sockaddr(to)); !errors.Is(err, unix.EINPROGRESS) {
		return fmt.Errorf("connect to %v without waiting: %w", to, err)
	}
	return nil
}

// Disconnect is connect(2) to AF_UNSPEC: the kernel drops the connection, and the
// same socket, with the same cookie, may be connected again.
func (s Socket) Disconnect() error {
	unspec := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(s), uintptr(unsafe.Pointer(&unspec)), unsafe.Sizeof(unspec))
	if errno != 0 {
		return fmt.Errorf("disconnect: %w", errno)
	}
	return nil
}

// Accept takes the next connection from a listener's queue.
func (s Socket) Accept() (accepted Socket, err error) {
	err = ignoringEINTR(func() error {
		fd, _, err := unix.Accept4(int(s), unix.SOCK_CLOEXEC)
		accepted = Socket(fd)
		return err
	})
	return accepted, err
}

// Close closes the descriptor.
func (s Socket) Close() error { return unix.Close(int(s)) }

// Abort closes the descriptor and the connection, with an RST to the peer.
func (s Socket) Abort() error {
	err := unix.SetsockoptLinger(int(s), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	return errors.Join(err, s.Close())
}

// CloseWrite is shutdown(SHUT_WR): the peer gets a FIN.
func (s Socket) CloseWrite() error { return unix.Shutdown(int(s), unix.SHUT_WR) }

// Send queues n bytes.
func (s Socket) Send(n int) error {
	data := make([]byte, n)
	for len(data) > 0 {
		sent, err := unix.SendmsgN(int(s), data, nil, nil, unix.MSG_NOSIGNAL)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("send: %w", err)
		}
		data = data[max(sent, 0):]
	}
	return nil
}

// Receive reads n bytes; at the end of the stream it returns io.EOF.
func (s Socket) Receive(n int) error {
	for buf := make([]byte, n); len(buf) > 0; {
		got, err := unix.Read(int(s), buf)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("receive: %w", err)
		case got == 0:
			return io.EOF
		}
		buf = buf[got:]
	}
	return nil
}

// Keepalive turns keepalive probes on, the first after one second without
// traffic and the next each second, the shortest that Linux has.
func (s Socket) Keepalive() error {
	return errors.Join(
		unix.SetsockoptInt(int(s), unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1),
		unix.SetsockoptInt(int(s), unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 1),
		unix.SetsockoptInt(int(s), unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 1),
	)
}

// Deafen makes the socket drop all that arrives, as if its host had died: a
// filter on the socket discards the segments before TCP sees them (tcp_filter).
// On a listener it leaves whoever connects in SYN_SENT.
func (s Socket) Deafen() error {
	drop := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
	prog := unix.SockFprog{Len: 1, Filter: &drop}
	return unix.SetsockoptSockFprog(int(s), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog)
}

// Hear undoes Deafen.
func (s Socket) Hear() error {
	return unix.SetsockoptInt(int(s), unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
}

// Mark sets SO_MARK, and sockets that a listener accepts inherit it. It takes
// CAP_NET_ADMIN or CAP_NET_RAW.
func (s Socket) Mark(mark uint32) error {
	return unix.SetsockoptInt(int(s), unix.SOL_SOCKET, unix.SO_MARK, int(mark))
}

// BindToDevice is SO_BINDTODEVICE.
func (s Socket) BindToDevice(name string) error { return unix.BindToDevice(int(s), name) }

// ChoosePortLate has Bind leave the port 0 to Connect: IP_BIND_ADDRESS_NO_PORT.
func (s Socket) ChoosePortLate() error {
	return unix.SetsockoptInt(int(s), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
}

// Cookie is SO_COOKIE: what sock_diag knows the socket by.
func (s Socket) Cookie() (uint64, error) {
	return unix.GetsockoptUint64(int(s), unix.SOL_SOCKET, unix.SO_COOKIE)
}

// Inode is the socket's inode number.
func (s Socket) Inode() (uint32, error) {
	var st unix.Stat_t
	err := unix.Fstat(int(s), &st)
	return uint32(st.Ino), err
}

// Local is the socket's own address, IPv4-mapped where the socket is.
func (s Socket) Local() (netip.AddrPort, error) { return addrPort(unix.Getsockname(int(s))) }

// Remote is the peer's address, IPv4-mapped where the socket is.
func (s Socket) Remote() (netip.AddrPort, error) { return addrPort(unix.Getpeername(int(s))) }

// Await waits until the socket is in a TCP state, by the kernel's number
// (BPF_TCP_ESTABLISHED and so on in package unix).
func (s Socket) Await(state uint8) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		info, err := unix.GetsockoptTCPInfo(int(s), unix.IPPROTO_TCP, unix.TCP_INFO)
		switch {
		case err != nil:
			return fmt.Errorf("read the TCP state: %w", err)
		case info.State == state:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("socket still in TCP state %d, not in %d, after %v", info.State, state, patience)
		}
	}
}

// Sockaddr reads an address, whose zone, if it has one, is the index of a device.
func Sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	zone, _ := strconv.ParseUint(a.Addr().Zone(), 10, 32)
	return &unix.SockaddrInet6{Port: int(a.Port()), ZoneId: uint32(zone), Addr: a.Addr().As16()}
}

func addrPort(sa unix.Sockaddr, err error) (netip.AddrPort, error) {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)), err
	case *unix.SockaddrInet6:
		addr := netip.AddrFrom16(sa.Addr)
		if sa.ZoneId != 0 {
			addr = addr.WithZone(strconv.FormatUint(uint64(sa.ZoneId), 10))
		}
		return netip.AddrPortFrom(addr, uint16(sa.Port)), err
	default:
		return netip.AddrPort{}, errors.Join(err, errors.New("not an internet socket"))
	}
}
