package sockdiag

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// NetnsCookie is the number that the kernel gave to the calling thread's network
// namespace at its creation and gives to no other until it is booted again.
// Kernels before 5.14 have none: unix.ENOPROTOOPT.
func NetnsCookie() (cookie uint64, err error) {
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

// NetnsInode is the inode of the calling thread's network namespace, as lsns(8)
// shows it, or 0 where /proc does not tell. The kernel gives it to another
// namespace once this one is gone.
func NetnsInode() uint32 {
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return 0
	}
	return uint32(st.Ino) // proc_inum is 32 bits wide
}
