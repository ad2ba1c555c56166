package holders

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/sock"
)

// Access is whose descriptors can be read.
type Access struct {
	AllShown   bool        // every process of the host is shown
	Contained  bool        // this is a PID namespace of its own: those outside of it can never be shown
	Privileged bool        // the calling thread has the capabilities that reading takes
	Processes  int         // that are shown
	Refused    int         // of these, how many do not let their descriptors be read
	First      sock.Holder // the first of those
}

// Complete reports whether a walk can be complete.
func (a *Access) Complete() bool { return a.AllShown && a.Refused == 0 }

// Unnamed says which processes cannot be read, and what to do about it; printable
// makes the name of one fit to be shown.
func (a *Access) Unnamed(printable func(string) string) (text, cure string) {
	var found, cures []string
	if a.Refused > 0 {
		found = append(found, fmt.Sprintf("%d of %d processes cannot be read, the first is %s[%d]", a.Refused, a.Processes, printable(a.First.Comm), a.First.PID))
		if a.Privileged {
			cures = append(cures, "the capabilities are there and do not reach it: a security module (AppArmor, SELinux) or a user namespace protects it")
		} else {
			cures = append(cures, "CAP_DAC_READ_SEARCH and CAP_SYS_PTRACE for other users' processes")
		}
	}
	switch {
	case a.AllShown:
	case a.Contained:
		found = append(found, "those outside of this PID namespace are not shown")
		cures = append(cures, "shareProcessNamespace: true for those of the pod's other containers, hostPID: true for those of the host")
	default:
		found = append(found, "some are not shown")
		cures = append(cures, "mount /proc without hidepid, or CAP_SYS_PTRACE")
	}
	return strings.Join(found, ", and ") + ": the sockets that those hold have no known holder", strings.Join(cures, "; ")
}

// Examine finds out whose descriptors can be read under root. It reads one of each
// process, and so costs a fraction of a walk.
func Examine(root string) (Access, error) {
	dir, err := openDir(unix.AT_FDCWD, root)
	if err != nil {
		return Access{}, fmt.Errorf("examine processes: %w", err)
	}
	defer unix.Close(dir)
	a := Access{AllShown: showsKernelThreads(dir), Contained: contained(dir), Privileged: privileged()}
	var pids, fds lister
	err = pids.eachNumber(dir, func(pid int, name []byte) error {
		a.Processes++
		path := string(name[:len(name)-1])
		if unlessGone(readOne(dir, path, &fds)) == nil {
			return nil
		}
		if a.Refused++; a.Refused == 1 {
			a.First = describe(dir, path, pid)
		}
		return nil
	})
	if err != nil {
		return a, fmt.Errorf("examine processes: list %s: %w", root, err)
	}
	return a, nil
}

// Readable reports whether a walk could be complete.
func Readable(root string) bool {
	a, err := Examine(root)
	return err == nil && a.Complete()
}

// readOne reads where one descriptor of a process leads to. That its directory
// can be listed says nothing: to read the links takes the right to trace it.
func readOne(root int, pid string, fds *lister) error {
	dir, err := openDir(root, pid+"/fd")
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	read := errors.New("it can be read")
	err = fds.eachNumber(dir, func(_ int, name []byte) error {
		var link [64]byte
		if _, err := readlinkat(dir, name, link[:]); err != nil {
			return err
		}
		return read
	})
	if errors.Is(err, read) {
		return nil
	}
	return err
}

// contained reports whether the /proc opened as dir is of another PID namespace than
// the host's, whose number is the same on every host (PROC_PID_INIT_INO).
func contained(dir int) bool {
	var link [64]byte
	n, err := unix.Readlinkat(dir, "self/ns/pid", link[:])
	return err == nil && string(link[:n]) != "pid:[4026531836]"
}

// privileged reports whether the calling thread may read any descriptor of its user
// namespace.
func privileged() bool {
	const both = 1<<unix.CAP_DAC_READ_SEARCH | 1<<unix.CAP_SYS_PTRACE
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&header, &data[0]) == nil && data[0].Effective&both == both
}

// showsKernelThreads reports whether the /proc opened as dir shows kthreadd,
// which is PID 2 of the initial PID namespace and of no other. Under hidepid it
// is shown only to those who are shown every process: they belong to the
// exempted group, or have CAP_SYS_PTRACE (has_pid_permissions).
func showsKernelThreads(dir int) bool {
	const pfKthread = 0x00200000 // PF_KTHREAD, include/linux/sched.h
	s, err := readStat(dir, "2/stat")
	if err != nil {
		return false
	}
	flags, err := s.number(9)
	return err == nil && flags&pfKthread != 0
}
