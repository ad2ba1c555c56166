package sockdiag

import (
	"errors"
	"fmt"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/netns"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// All system calls on the netlink socket stand in this file.

// answerTimeout bounds the wait for one datagram. The walk of the socket table
// is no part of it: the kernel walks within send and recv.
const answerTimeout = 5 * time.Second

// kernelLink is a netlink socket connected to the kernel.
type kernelLink struct {
	fd     int
	portID uint32
	inode  uint32 // of the network namespace
	room   int    // SO_RCVBUF
	kernel *unix.SockaddrNetlink
	within within
}

// within runs a function inside of a link's network namespace.
type within func(f func() error) error

// inPlace is within the namespace of the calling thread.
func inPlace(f func() error) error { return f() }

// dialIn opens a NETLINK_SOCK_DIAG socket in a network namespace.
func dialIn(w within) (link, error) {
	var l *kernelLink
	err := w(func() (err error) {
		l, err = dialKernel()
		return err
	})
	if err != nil {
		return nil, err
	}
	l.within = w
	return l, nil
}

// dialKernel opens one in the calling thread's network namespace.
func dialKernel() (*kernelLink, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("open a sock_diag socket (the kernel needs CONFIG_INET_DIAG, the sandbox must allow AF_NETLINK): %w", err)
	}
	l := &kernelLink{fd: fd, inode: netns.Inode(), kernel: &unix.SockaddrNetlink{Family: unix.AF_NETLINK}, within: inPlace}
	if err := l.setUp(); err != nil {
		return nil, errors.Join(fmt.Errorf("set up a sock_diag socket: %w", err), l.close())
	}
	return l, nil
}

func (l *kernelLink) setUp() error {
	if err := unix.Bind(l.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	self, err := unix.Getsockname(l.fd)
	if err != nil {
		return err
	}
	l.portID = self.(*unix.SockaddrNetlink).Pid
	// To a connected netlink socket nobody but its peer can send
	// (netlink_getsockbyportid), so no sender needs to be checked here.
	if err := unix.Connect(l.fd, l.kernel); err != nil {
		return err
	}
	timeout := unix.NsecToTimeval(answerTimeout.Nanoseconds())
	if err := unix.SetsockoptTimeval(l.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return err
	}
	// Room for a batch of answers; the kernel gives what net.core.rmem_max allows.
	if err := unix.SetsockoptInt(l.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, maxBatch*answerRoom); err != nil {
		return err
	}
	l.room, err = unix.GetsockoptInt(l.fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	return err
}

func (l *kernelLink) port() uint32  { return l.portID }
func (l *kernelLink) netns() uint32 { return l.inode }

const (
	// maxBatch is the most requests in one send: more gains nothing.
	maxBatch = 128
	// answerRoom is the truesize of the skb of one answer, rounded up. An answer
	// that finds no room is lost, with ENOBUFS for the whole batch
	// (netlink_overrun), so a batch is never larger than the room for its answers.
	answerRoom = 2560
)

func (l *kernelLink) batch() int { return min(max(l.room/answerRoom, 1), maxBatch) }

func (l *kernelLink) send(b []byte) error {
	for {
		// With an explicit address netlink_net_capable judges the thread that
		// sends alone, and not also whoever opened the socket.
		if err := unix.Sendto(l.fd, b, 0, l.kernel); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func (l *kernelLink) recv(b []byte) (int, error) {
	for {
		// unix.Recvfrom would allocate the sender's address each time. With
		// MSG_TRUNC the length is the datagram's own.
		n, _, errno := unix.Syscall6(unix.SYS_RECVFROM, uintptr(l.fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_TRUNC, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR: // a socket with SO_RCVTIMEO is not restarted
		case unix.EAGAIN:
			return 0, fmt.Errorf("no answer within %v", answerTimeout)
		default:
			return 0, errno
		}
	}
}

// deviceIndex asks by an ioctl on the netlink socket, which hands it down to the
// devices of its own namespace (netlink_ioctl, since 4.6). It takes no lock that a
// change of the devices holds.
func (l *kernelLink) deviceIndex(name string) (index uint32, ok bool) {
	device, err := unix.NewIfreq(name)
	if err != nil {
		return 0, false // longer than the name of a device
	}
	if err := unix.IoctlIfreq(l.fd, unix.SIOCGIFINDEX, device); err != nil {
		return 0, false
	}
	return device.Uint32(), true
}

// deviceNames asks rtnetlink, on a socket of its own in the link's network namespace:
// nothing else tells all names.
func (l *kernelLink) deviceNames(index uint32) (name, altNames string) {
	var rtnetlink *netlink.Handle
	err := l.within(func() (err error) {
		rtnetlink, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return "", ssfilter.UnknownNames
	}
	defer rtnetlink.Close()
	if err := rtnetlink.SetSocketTimeout(answerTimeout); err != nil {
		return "", ssfilter.UnknownNames
	}
	device, err := rtnetlink.LinkByIndex(int(index))
	if err != nil {
		return "", ssfilter.UnknownNames // it was deleted, and sockets may still be bound to it
	}
	for _, other := range device.Attrs().AltNames {
		altNames += " " + other + " " // no name has a blank
	}
	return device.Attrs().Name, altNames
}

func (l *kernelLink) close() error { return unix.Close(l.fd) }

// HasDevice reports whether there is a device of that name in the calling
// thread's network namespace. Where it cannot be asked, nothing speaks against it.
func HasDevice(name string) bool {
	l, err := dialKernel()
	if err != nil {
		return true // whoever looks next will say what is wrong
	}
	defer l.close()
	_, ok := l.deviceIndex(name)
	return ok
}
