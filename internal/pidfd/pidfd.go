// Package pidfd duplicates the descriptor by which a process holds a socket
// (pidfd_getfd(2)), and makes sure that it is of that socket and of no other.
package pidfd

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/holders"
	"github.com/sockdog/sockdog/internal/sock"
)

// What a duplicate can fail for, beside sock.ErrNotHeld, sock.ErrRefused and an errno that
// passes.
var (
	// ErrEnded is a sock.ErrNotHeld: the process has ended, whoever has its PID now.
	ErrEnded = fmt.Errorf("%w: it has ended", sock.ErrNotHeld)
	// ErrUnsupported: the kernel duplicates no descriptors of others.
	ErrUnsupported = fmt.Errorf("this kernel has no pidfd_getfd(2), which Linux 5.6 and later have: %w", unix.ENOSYS)
)

// Opener duplicates descriptors of processes. It remembers which descriptors those had, so
// that thousands of sockets of one program are found by one listing; what it remembers is
// only where to look first. It is not for concurrent use. Its zero value needs Root.
type Opener struct {
	Root   string // a mounted proc(5)
	listed map[process]map[uint32][]int
}

// process is one life of a process.
type process struct {
	pid   int
	start uint64
}

// Forget has processes listed anew.
func (o *Opener) Forget() { o.listed = nil }

// Open duplicates a descriptor of a socket, with that inode and cookie, that a process
// holds. Whoever calls closes it. While it is open, the socket outlives the descriptors of
// its program.
func (o *Opener) Open(h *sock.Holder, inode uint32, cookie uint64) (fd int, err error) {
	pidfd, err := unix.PidfdOpen(h.PID, 0)
	if err != nil {
		return -1, o.why(h, err)
	}
	defer unix.Close(pidfd)
	// What has the PID from here on is what the pidfd is of, or the pidfd is of none: so if
	// it is the process that was meant, so is the pidfd.
	start, err := holders.ReadStart(o.Root, h.PID)
	if err != nil {
		return -1, o.why(h, err)
	}
	if h.Start != 0 && start != h.Start {
		return -1, ErrEnded
	}
	life := process{h.PID, start}
	if fds, known := o.listed[life]; known {
		if fd, err := duplicate(pidfd, fds[inode], cookie); err == nil {
			return fd, nil
		}
	}
	fds, err := holders.ReadSockets(o.Root, h.PID)
	if err != nil {
		return -1, o.why(h, err)
	}
	if o.listed == nil {
		o.listed = make(map[process]map[uint32][]int)
	}
	o.listed[life] = fds
	fd, err = duplicate(pidfd, fds[inode], cookie)
	return fd, o.why(h, err)
}

// duplicate duplicates one of the descriptors, the first that is of the socket. Each may
// have been closed by now, and its number given to another file: only the cookie tells.
func duplicate(pidfd int, fds []int, cookie uint64) (int, error) {
	err := sock.ErrNotHeld
	for _, theirs := range fds {
		fd, errno := unix.PidfdGetfd(pidfd, theirs, 0)
		switch {
		case errors.Is(errno, unix.EBADF):
		case errno != nil:
			err = errno
		case isOf(fd, cookie):
			return fd, nil
		default:
			unix.Close(fd)
		}
	}
	return -1, err
}

// isOf reports whether a descriptor is of the TCP socket with the cookie. Where pidfd_getfd
// is, no second socket of the host has it. One of MPTCP has cookies of its own, and those of
// its subflows stand behind no descriptor.
func isOf(fd int, cookie uint64) bool {
	got, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil || got != cookie {
		return false
	}
	protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	return err == nil && protocol == unix.IPPROTO_TCP
}

// why says of a failure what it means, and with which process.
func (o *Opener) why(h *sock.Holder, err error) error {
	switch {
	case err == nil || errors.Is(err, sock.ErrNotHeld):
		return err
	case errors.Is(err, unix.ESRCH), errors.Is(err, fs.ErrNotExist):
		return ErrEnded
	case errors.Is(err, unix.ENOSYS):
		return ErrUnsupported
	case refused(err):
		return fmt.Errorf("process %d (%s): %w: %w", h.PID, h.Comm, sock.ErrRefused, o.Refusal())
	default:
		return fmt.Errorf("process %d (%s): duplicate its descriptor: %w", h.PID, h.Comm, err)
	}
}

func refused(err error) bool { return errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) }
