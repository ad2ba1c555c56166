package holders

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/sock"
)

// Access is whose descriptors a walk could read.
type Access struct {
	AllShown   bool        // every process of the host is shown
	Contained  bool        // this is a PID namespace of its own: those outside of it can never be shown
	Privileged bool        // the calling thread has the capabilities that reading takes
	Processes  int         // that are shown
	Refused    int         // of these, how many do not let their descriptors be read
	First      sock.Holder // the first of those
}

// refuse counts a process that cannot be read.
func (a *Access) refuse(h sock.Holder) {
	if a.Refused++; a.Refused == 1 {
		a.First = h
	}
}

// Complete reports whether every process of the host is shown and lets its descriptors
// be read: an inode without a holder is then held by the kernel itself, or on its way
// between processes.
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
