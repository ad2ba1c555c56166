package pidfd

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Probe finds out whether descriptors of other processes can be duplicated here; nil: at
// least those of processes of the same user. It tries the system calls on this process,
// which no privilege is needed for, and reads what stands against it elsewhere.
func (o *Opener) Probe() error {
	pidfd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err == nil {
		defer unix.Close(pidfd)
		var fd int
		if fd, err = unix.PidfdGetfd(pidfd, pidfd, 0); err == nil {
			unix.Close(fd)
		}
	}
	switch {
	case errors.Is(err, unix.ENOSYS):
		return ErrUnsupported
	case refused(err):
		return errFiltered
	case err != nil:
		return os.NewSyscallError("pidfd_getfd", err)
	}
	if scope := o.scope(); scope >= attachNobody || scope >= attachChildren && !privileged() {
		return o.Refusal()
	}
	return nil
}

// Why a process may not be reached, each with what to do about it.
var (
	errFiltered = errors.New("a seccomp filter forbids pidfd_getfd(2): SystemCallFilter=pidfd_open pidfd_getfd in the unit, or a seccomp profile that allows both in the pod")
	errNobody   = errors.New("kernel.yama.ptrace_scope is 3, which lets nobody, and stays so until the host is booted with another")
	errYama     = errors.New("kernel.yama.ptrace_scope allows it only with CAP_SYS_PTRACE: grant that, or set it to 0")
	errOthers   = errors.New("it takes CAP_SYS_PTRACE for a process of another user, or one that has more privileges")
	errOutside  = errors.New("CAP_SYS_PTRACE is there and does not reach it: a user namespace or a security module (AppArmor, SELinux) protects it, or a seccomp filter forbids pidfd_getfd(2)")
)

// Refusal says why the kernel refuses the descriptors of a process, and what to do.
func (o *Opener) Refusal() error {
	switch scope := o.scope(); {
	case scope >= attachNobody:
		return errNobody
	case privileged():
		return errOutside
	case scope >= attachChildren:
		return errYama
	default:
		return errOthers
	}
}

// What kernel.yama.ptrace_scope says of who may attach to a process, as pidfd_getfd does.
const (
	attachChildren = 1 // its ancestors and who has CAP_SYS_PTRACE; 2: the latter
	attachNobody   = 3
)

// scope is kernel.yama.ptrace_scope; 0 where there is no Yama.
func (o *Opener) scope() int {
	text, _ := os.ReadFile(filepath.Join(o.Root, "sys/kernel/yama/ptrace_scope"))
	if text = bytes.TrimSpace(text); len(text) == 1 && '0' <= text[0] && text[0] <= '9' {
		return int(text[0] - '0')
	}
	return 0
}

// privileged reports whether CAP_SYS_PTRACE is in effect on this thread.
func privileged() bool {
	var sets [2]unix.CapUserData
	err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &sets[0])
	return err == nil && sets[0].Effective&(1<<unix.CAP_SYS_PTRACE) != 0
}
