// Package netns finds the network namespaces of this host, opens them, and runs
// functions inside of them. It knows nothing of what is in one.
//
// A namespace lives as long as anything refers to it: a process, a mount, a socket, or
// an open file such as a [Namespace] holds. So whoever keeps a Namespace, or a socket
// or a file of /proc/net that was opened in it, keeps a deleted pod's namespace alive,
// its devices included. [Finder.Find] tells which ones nobody else is in any more.
package netns

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// self shows the calling thread's network namespace, where /proc/self shows that of
// the thread that the process began with.
const self = "/proc/thread-self/ns/net"

// A Namespace is an open network namespace. Its methods may be called from several
// goroutines at once.
type Namespace struct {
	Inode  uint32 // as lsns(8) shows it: no other namespace has it while this one is open
	Cookie uint64 // SO_NETNS_COOKIE, which no other namespace ever has in this boot; 0: kernels before 5.14 have none

	file *os.File // nil: of the own namespace, where /proc does not show it
}

// Self opens the calling thread's network namespace. Where /proc does not show it, its
// inode is 0, and Do takes every thread to be inside.
func Self() (*Namespace, error) {
	cookie, err := Cookie()
	if err != nil && !errors.Is(err, unix.ENOPROTOOPT) {
		return nil, err
	}
	n := &Namespace{Cookie: cookie}
	file, inode, err := openAt(unix.AT_FDCWD, self)
	switch {
	case err == nil:
		n.file, n.Inode = file, inode
	case !errors.Is(err, unix.ENOENT):
		return nil, fmt.Errorf("open the own network namespace: %w", err)
	}
	return n, nil
}

// Close gives the namespace up. A Do that is under way ends as it would have.
func (n *Namespace) Close() error {
	if n.file == nil {
		return nil
	}
	return n.file.Close()
}

// isOpen reports whether Close has not been called yet.
func (n *Namespace) isOpen() bool { return n.file == nil || n.control(func(int) {}) == nil }

// control calls f with a descriptor that stays valid for as long. The error is
// os.ErrClosed after Close: by then the number may be that of another file.
func (n *Namespace) control(f func(fd int)) error {
	c, err := n.file.SyscallConn()
	if err == nil {
		err = c.Control(func(fd uintptr) { f(int(fd)) })
	}
	if err != nil {
		return fmt.Errorf("network namespace %d: %w", n.Inode, os.ErrClosed)
	}
	return nil
}

// openAt opens the namespace that a path leads to, and returns its inode, which need
// not be the one that the path led to a moment before.
func openAt(dir int, path string) (*os.File, uint32, error) {
	for {
		// Something else may be mounted over a namespace: a named pipe is not waited for.
		fd, err := unix.Openat(dir, path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, 0, err
		}
		return newFile(fd)
	}
}

// newFile is the file of a descriptor, which it closes if it is not of a namespace.
func newFile(fd int) (*os.File, uint32, error) {
	var fs unix.Statfs_t
	var st unix.Stat_t
	err := unix.Fstatfs(fd, &fs)
	if err == nil {
		err = unix.Fstat(fd, &st)
	}
	if err == nil && fs.Type != unix.NSFS_MAGIC {
		err = errNotNamespace
	}
	if err != nil {
		unix.Close(fd)
		return nil, 0, err
	}
	return os.NewFile(uintptr(fd), "a network namespace"), uint32(st.Ino), nil // proc_inum is 32 bits wide
}

var errNotNamespace = errors.New("what is mounted there is no namespace")

// Cookie is the number that the kernel gave to the calling thread's network
// namespace at its creation and gives to no other until it is booted again.
// Kernels before 5.14 have none: unix.ENOPROTOOPT.
func Cookie() (cookie uint64, err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(fd)
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	}
	if err != nil {
		return 0, fmt.Errorf("network namespace cookie: %w", err)
	}
	return cookie, nil
}

// Inode is the inode of the calling thread's network namespace, as lsns(8)
// shows it, or 0 where /proc does not tell. The kernel gives it to another
// namespace once this one is gone.
func Inode() uint32 {
	var st unix.Stat_t
	if err := unix.Stat(self, &st); err != nil {
		return 0
	}
	return uint32(st.Ino)
}
