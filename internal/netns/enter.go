package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Do runs f on the calling thread, locked, inside of the namespace, and then returns
// the thread to the namespace that it was in. What f opens keeps to the namespace;
// goroutines that f starts are not in it.
//
// A thread that is inside already stays where it is, which needs no privilege. To enter
// another takes CAP_SYS_ADMIN twice: over the user namespace that owns it, and over the
// one that the process is in. Where the thread has it and it is not in effect, it is for
// the time of the call. So that no thread is left where it cannot come back from,
// Do first has the kernel put it where it is: what is refused then was not begun. A
// thread that cannot come back all the same, for want of memory say, would work in the
// wrong namespace unnoticed: Do panics.
func (n *Namespace) Do(f func() error) error {
	if n.file == nil {
		return f()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, inode, err := openAt(unix.AT_FDCWD, self)
	if err != nil {
		return fmt.Errorf("open the network namespace of this thread: %w", err)
	}
	defer here.Close()
	if inode == n.Inode {
		if !n.isOpen() { // it may be another, with the inode of this one
			return fmt.Errorf("network namespace %d: %w", n.Inode, os.ErrClosed)
		}
		return f()
	}
	back := int(here.Fd())
	if err = setns(back); errors.Is(err, unix.EPERM) {
		defer raise()()
		err = setns(back)
	}
	if err != nil {
		return fmt.Errorf("network namespace %d cannot be entered: %w", n.Inode, err)
	}
	var refused error
	if err := n.control(func(fd int) { refused = setns(fd) }); err != nil {
		return err
	}
	if refused != nil {
		return fmt.Errorf("enter network namespace %d: %w", n.Inode, refused)
	}
	defer func() {
		if err := setns(back); err != nil {
			panic(fmt.Sprintf("a thread cannot leave network namespace %d: %v", n.Inode, err))
		}
	}()
	return f()
}

// raise puts CAP_SYS_ADMIN in effect for the calling thread, if it is permitted, and
// returns what takes it back.
func raise() (lower func()) {
	self := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3} // pid 0: this thread
	var had [2]unix.CapUserData
	if err := unix.Capget(&self, &had[0]); err != nil {
		return func() {}
	}
	sets := had
	sets[0].Effective |= sets[0].Permitted & (1 << unix.CAP_SYS_ADMIN)
	if sets == had || unix.Capset(&self, &sets[0]) != nil {
		return func() {}
	}
	return func() { _ = unix.Capset(&self, &had[0]) } // to lower is always allowed
}

// errNotPermitted is that setns(2) was refused.
var errNotPermitted = errors.New("setns(2) is not permitted")

// whyNotPermitted says what that lacked. A thread that has the capability, and is refused, is
// in a user namespace, or something filters what it calls: RestrictNamespaces=yes of systemd does.
func whyNotPermitted() string {
	self := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3} // pid 0: this thread
	var sets [2]unix.CapUserData
	if unix.Capget(&self, &sets[0]) == nil && sets[0].Permitted&(1<<unix.CAP_SYS_ADMIN) == 0 {
		return "CAP_SYS_ADMIN is missing"
	}
	return "CAP_SYS_ADMIN is there, and setns(2) is refused (RestrictNamespaces= of a systemd unit, a user namespace, or a security module)"
}

func setns(fd int) error {
	err := unix.Setns(fd, unix.CLONE_NEWNET)
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w: %w", errNotPermitted, err)
	}
	return err
}
