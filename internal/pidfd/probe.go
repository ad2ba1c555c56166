package pidfd

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Probe finds out whether descriptors of other processes can be duplicated here; nil: at
// least those of processes of the same user. It tries the system calls on a process's own
// descriptors, which no privilege is needed for, and reads what stands against it elsewhere.
func (o *Opener) Probe() error {
	err := tryCalls()
	switch {
	case errors.Is(err, unix.ENOSYS):
		return ErrUnsupported
	case refused(err):
		return refusedByFilter
	case err != nil:
		return err
	}
	if scope := o.scope(); scope >= attachNobody || scope >= attachChildren && !privileged() {
		return o.Refusal()
	}
	return nil
}

// tryCalls tries the system calls. Where there is a filter of them, a child does: the filter
// may kill who makes one, as systemd's does, and pidfd_getfd is none of @system-service.
func tryCalls() error {
	if !filtered() || !canBecome {
		return call()
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{trialName}
	err := cmd.Run()
	ended, is := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil:
		return nil
	case !is:
		return err
	case ended.ExitCode() > 0:
		return os.NewSyscallError("pidfd_getfd", unix.Errno(ended.ExitCode()))
	default:
		return unix.EPERM // a signal ended it: SIGSYS
	}
}

// trialName is argv[0] of the child that tries the system calls.
const trialName = "sockdog: try pidfd_getfd"

var canBecome bool

// BecomeTrial does not return in the child that Probe may start. It must be the first thing
// that the program's main does; without it, Probe itself makes the calls.
func BecomeTrial() {
	canBecome = true
	if os.Args[0] != trialName {
		return
	}
	err := call()
	errno, is := errors.AsType[unix.Errno](err)
	if err != nil && !is {
		errno = unix.EIO
	}
	os.Exit(int(errno))
}

// call makes the system calls on this process.
func call() error {
	pidfd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return err
	}
	defer unix.Close(pidfd)
	fd, err := unix.PidfdGetfd(pidfd, pidfd, 0)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// filtered reports whether this thread's system calls pass a seccomp filter (SECCOMP_MODE_FILTER).
func filtered() bool {
	text, err := os.ReadFile("/proc/thread-self/status")
	return err != nil || bytes.Contains(text, []byte("\nSeccomp:\t2"))
}

// Reach says whose descriptors can be duplicated where any can: nil: everybody's, unless a
// security module or a user namespace protects them.
func (o *Opener) Reach() *Refusal {
	if privileged() {
		return nil
	}
	return refusedOthers
}

// Refusal is why processes may not be reached, and what to do about it.
type Refusal struct{ Why, Cure string }

func (r *Refusal) Error() string { return r.Why + ": " + r.Cure }

var (
	refusedByFilter = &Refusal{
		"a seccomp filter forbids pidfd_getfd(2)",
		"in a systemd unit the drop-in holders.conf; in a container a seccomp profile that allows pidfd_open and pidfd_getfd, as those of docker, podman and Kubernetes (RuntimeDefault) do for who has CAP_SYS_PTRACE",
	}
	refusedByYama3 = &Refusal{
		"kernel.yama.ptrace_scope is 3, which lets nobody duplicate descriptors of others",
		"boot the host with another: it cannot be lowered",
	}
	refusedByYama = &Refusal{
		"kernel.yama.ptrace_scope lets nobody without CAP_SYS_PTRACE duplicate descriptors of others",
		"CAP_SYS_PTRACE for sockdog, or kernel.yama.ptrace_scope=0 for processes of its own user",
	}
	refusedOthers = &Refusal{
		"without CAP_SYS_PTRACE, only descriptors of processes of the same user can be duplicated, which have no more privileges than sockdog",
		"CAP_SYS_PTRACE for sockdog",
	}
	refusedAll = &Refusal{
		"CAP_SYS_PTRACE is there and does not reach it",
		"see which user namespace it is in, and whether a security module (AppArmor, SELinux) or a seccomp filter forbids pidfd_getfd(2)",
	}
)

// Refusal says why the kernel refuses the descriptors of a process.
func (o *Opener) Refusal() *Refusal {
	switch scope := o.scope(); {
	case scope >= attachNobody:
		return refusedByYama3
	case privileged():
		return refusedAll
	case scope >= attachChildren:
		return refusedByYama
	default:
		return refusedOthers
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
