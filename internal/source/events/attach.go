package events

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Attach has connections of processes in a cgroup, and in all below it, followed from now on:
// those that begin, and older ones as soon as FlagOlder has flagged them. What is attached by
// others stays, and works beside it. The attachment ends with the process, whatever ends it.
func (p *Programs) Attach(cgroupDir string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.fds == nil:
		return errors.New("attach to a cgroup: the programs are closed")
	case p.fds.attached >= 0:
		return errors.New("attach to a cgroup: it is attached already")
	}
	dir, err := unix.Open(cgroupDir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("attach to cgroup %s: %w", cgroupDir, err)
	}
	defer unix.Close(dir)
	link, err := bpf(unix.BPF_LINK_CREATE, &linkCreate{prog: uint32(p.fds.follow), target: uint32(dir), kind: unix.BPF_CGROUP_SOCK_OPS})
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("attach to cgroup %s: %w (CAP_BPF is missing, or a program is attached that allows no other beside it)", cgroupDir, err)
	case errors.Is(err, unix.EBADF):
		return fmt.Errorf("attach to cgroup %s: %w (not a directory of cgroup v2)", cgroupDir, err)
	case err != nil:
		return fmt.Errorf("attach to cgroup %s: %w", cgroupDir, err)
	}
	p.fds.attached = int(link)
	return nil
}

// errDetached is the error where the attachment has ended, and Detach was not called.
var errDetached = errors.New("another has detached the program from the cgroup")

// Attached is an error if connections are not followed any more: whoever may, as by bpftool(8),
// detaches the program of another, which goes on to be there, and is called no more. It waits
// in the kernel for whoever changes control groups (cgroup_mutex).
func (p *Programs) Attached() error {
	return p.use(func(fds *descriptors) error {
		var info linkInfo
		_, err := bpf(unix.BPF_OBJ_GET_INFO_BY_FD, &objInfo{fd: uint32(fds.attached), size: uint32(unsafe.Sizeof(info)), info: to(&info)})
		switch {
		case err != nil:
			return fmt.Errorf("ask whether the program is attached: %w", err)
		case info.cgroup == 0:
			return errDetached
		}
		return nil
	})
}

// Detach ends what Attach began, and empties the table: what becomes of its sockets is not
// seen any more.
func (p *Programs) Detach() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fds == nil || p.fds.attached < 0 {
		return errors.New("detach from a cgroup: nothing is attached")
	}
	err := unix.Close(p.fds.attached)
	p.fds.attached = -1
	var cookies []uint64
	everything := func(cookie uint64, _ *value) { cookies = append(cookies, cookie) }
	if err := errors.Join(err, p.table.read(p.fds, everything)); err != nil {
		return fmt.Errorf("detach from a cgroup: %w", err)
	}
	for _, cookie := range cookies {
		if err := remove(p.fds.entries, &cookie); err != nil {
			return fmt.Errorf("detach from a cgroup: empty the table: %w", err)
		}
	}
	return nil
}
