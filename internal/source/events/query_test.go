package events_test

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// query counts the sock_ops programs that are attached to a cgroup, by BPF_PROG_QUERY, or
// with BPF_F_QUERY_EFFECTIVE those that are called for it.
func query(dir string, flags uint32) (int, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	attr := struct {
		target, kind, flags, attachFlags uint32
		ids                              uint64
		count, _                         uint32
	}{target: uint32(fd), kind: unix.BPF_CGROUP_SOCK_OPS, flags: flags}
	if _, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_QUERY, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr)); errno != 0 {
		return 0, errno
	}
	return int(attr.count), nil
}
