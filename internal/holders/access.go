package holders

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/sock"
)

// Access is whose descriptors a walk could read.
type Access struct {
	AllShown   bool        // every process of the host is shown
	Contained  bool        // this is a PID namespace of its own: those outside of it can never be shown
	Hidden     bool        // /proc is mounted to hide processes from others (hidepid)
	Privileged bool        // the calling thread has the capabilities that reading takes
	Processes  int         // that are shown
	Refused    int         // of these, how many may have descriptors, and do not let them be read
	First      sock.Holder // the first of those
	Crowded    bool        // of some there was no room for the descriptors
}

// kinShown reports whether each process is shown that can have by fork(2) what one that is
// shown holds: the children of a process are in its PID namespace or below, and /proc shows
// those, too.
func (a *Access) kinShown() bool { return a.AllShown || a.Contained && !a.Hidden }

// Complete reports whether every process of the host is shown and lets its descriptors
// be read: an inode without a holder is then held by the kernel itself, or on its way
// between processes.
func (a *Access) Complete() bool { return a.AllShown && a.Refused == 0 }

// Pod reports whether each process of a PID namespace that this one shares with others can
// be read.
func (a *Access) Pod() bool { return a.Contained && !a.Hidden && a.Refused == 0 && a.Processes > 1 }

// Unnamed says which processes cannot be read, and what to do about it; printable
// makes the name of one fit to be shown.
func (a *Access) Unnamed(printable func(string) string) (text, cure string) {
	var found, cures []string
	if a.Refused > 0 {
		found = append(found, fmt.Sprintf("%d of %d processes cannot be read, the first is %s[%d]", a.Refused, a.Processes, printable(a.First.Comm), a.First.PID))
		switch {
		case a.Crowded:
			cures = append(cures, "raise the memory limit of the container or unit: the kernel takes a kilobyte of it for each descriptor that is looked at")
		case a.Privileged:
			cures = append(cures, "run sockdog outside of the user namespace, or of the confinement (AppArmor, SELinux), that keeps its capabilities from reaching it")
		default:
			cures = append(cures, "CAP_DAC_READ_SEARCH and CAP_SYS_PTRACE, for the processes of other users and those that have more capabilities (in a systemd unit: the drop-in holders.conf)")
		}
	}
	switch {
	case a.AllShown:
	case a.kinShown():
		found = append(found, "those outside of this PID namespace are not shown")
		cures = append(cures, "in a pod shareProcessNamespace: true shows those of its other containers, and hostPID: true those of the host; in docker or podman --pid=container:NAME and --pid=host do, with the --user of NAME")
	default:
		found = append(found, "other users' processes are hidden from sockdog")
		cures = append(cures, "mount /proc without hidepid, or CAP_SYS_PTRACE (in a systemd unit: the drop-in holders.conf)")
	}
	text = strings.Join(found, ", and ") + ": who holds their sockets is not known"
	if a.Refused > 0 {
		text += ", and those of their containers and services may have one more holder"
	}
	return text, strings.Join(cures, "; ")
}

// contained reports whether the /proc opened as dir is of another PID namespace than
// the host's, whose number is the same on every host (PROC_PID_INIT_INO).
func contained(dir int) bool {
	var link [64]byte
	n, err := unix.Readlinkat(dir, "self/ns/pid", link[:])
	return err == nil && string(link[:n]) != "pid:[4026531836]"
}

// hides reports whether the proc(5) that is mounted at root hides processes from those that
// may not trace them, unless they belong to a group of its own (hidepid=invisible, 2, or
// ptraceable, 4); or that cannot be told.
func hides(dir int, root string) bool {
	text, err := readAllAt(dir, "self/mountinfo")
	if err != nil {
		return true
	}
	hidden := true
	for line := range strings.Lines(string(text)) {
		// ID PARENT MAJOR:MINOR ROOT MOUNTPOINT OPTIONS TAGS - TYPE SOURCE SUPEROPTIONS; the last
		// at one place covers the others.
		mount, super, _ := strings.Cut(line, " - ")
		at, is := strings.Fields(mount), strings.Fields(super)
		if len(at) < 6 || len(is) < 3 || at[4] != root {
			continue
		}
		hidden = is[0] != "proc" || at[3] != "/"
		for option := range strings.SplitSeq(is[2], ",") {
			how, given := strings.CutPrefix(option, "hidepid=")
			hidden = hidden || given && !slices.Contains([]string{"0", "off", "1", "noaccess"}, how)
		}
	}
	return hidden
}

// privileged reports whether the calling thread may read any descriptor of its user
// namespace.
func privileged() bool {
	const both = 1<<unix.CAP_DAC_READ_SEARCH | 1<<unix.CAP_SYS_PTRACE
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&header, &data[0]) == nil && data[0].Effective&both == both
}

// pfKthread is PF_KTHREAD of include/linux/sched.h.
const pfKthread = 0x00200000

// showsKernelThreads reports whether the /proc opened as dir shows kthreadd,
// which is PID 2 of the initial PID namespace and of no other. Under hidepid it
// is shown only to those who are shown every process: they belong to the
// exempted group, or have CAP_SYS_PTRACE (has_pid_permissions).
func showsKernelThreads(dir int) bool {
	s, err := readStat(dir, "2/stat")
	if err != nil {
		return false
	}
	flags, err := s.number(9)
	return err == nil && flags&pfKthread != 0
}

// Contained reports whether this process is in a PID namespace of its own, whose process 1
// is not the host's.
func Contained(root string) bool {
	dir, err := openDir(unix.AT_FDCWD, root)
	if err != nil {
		return false
	}
	defer unix.Close(dir)
	return contained(dir)
}
