package host

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/psx"
)

// The capabilities that the daemon works with, as bits.
const (
	// toDestroy is in effect on the threads that sockdiag.RaiseNetAdmin is called
	// from, and on no other.
	toDestroy = 1 << unix.CAP_NET_ADMIN
	// toRead rules and secrets of other users, and the descriptors of their
	// processes.
	toRead = 1<<unix.CAP_DAC_READ_SEARCH | 1<<unix.CAP_SYS_PTRACE
	// toSignal processes of other users is in effect on all threads.
	toSignal = 1 << unix.CAP_KILL
	// toEnter other network namespaces is in effect while a thread does so (netns.Do).
	toEnter = 1 << unix.CAP_SYS_ADMIN
)

// kept are the capabilities to read with, of those that are permitted. Containers have
// CAP_DAC_OVERRIDE and not CAP_DAC_READ_SEARCH, unless told otherwise: there, only the
// first lets root read what is another user's.
func kept(permitted uint32) uint32 {
	if permitted&(1<<unix.CAP_DAC_READ_SEARCH) == 0 {
		return toRead | 1<<unix.CAP_DAC_OVERRIDE
	}
	return toRead
}

// Duties are what the daemon does beside destroying and reading.
type Duties struct {
	EntersNamespaces bool // network namespaces of others
	CallsBPF         bool // by itself, as old kernels let nobody do who lacks CAP_BPF
	Signals          bool // processes of other users
}

// keep returns the capabilities to act with, and those to read with, which are in effect
// on all threads, of those that are permitted.
func (d Duties) keep(permitted uint64) (acts, reads uint64) {
	acts, reads = toDestroy, uint64(kept(uint32(permitted)))
	if d.EntersNamespaces {
		acts |= toEnter
	}
	if d.CallsBPF {
		reads |= 1 << unix.CAP_BPF
	}
	if d.Signals {
		reads |= toSignal
	}
	return acts & permitted, reads & permitted
}

// RaiseToRead puts in effect, on all threads, what the capabilities that the program's file
// permits allow to read: a file marked +p also starts where some of them are not to be had, and
// has none in effect. It must come before any thread raises another. Who lacks them says so.
func RaiseToRead() {
	self := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3} // pid 0: each thread itself
	var sets [2]unix.CapUserData
	if unix.Capget(&self, &sets[0]) != nil {
		return
	}
	had := sets
	sets[0].Effective |= kept(sets[0].Permitted) & sets[0].Permitted
	if sets != had {
		_ = onAllThreads(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&self)), uintptr(unsafe.Pointer(&sets[0])))
	}
}

// onAllThreads makes a system call on every thread of this process. Psx finds them in /proc, and ends the
// process where it is not mounted.
func onAllThreads(call, a, b uintptr) error {
	if err := unix.Access("/proc/self/task", unix.R_OK); err != nil {
		return fmt.Errorf("the threads of this process are not shown: /proc/self/task: %w; mount /proc", err)
	}
	if _, _, errno := psx.Syscall6(call, a, b, 0, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// DropPrivileges takes from every thread the capabilities that the daemon does not
// work with, of those that it has: root starts it with all of them. What was opened
// before stays open. CAP_SYS_ADMIN it keeps to enter other network namespaces, and not
// where it never does.
func DropPrivileges(d Duties) error {
	self := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3} // pid 0: each thread itself
	var sets [2]unix.CapUserData
	if err := unix.Capget(&self, &sets[0]); err != nil {
		return fmt.Errorf("read the capabilities: %w", err)
	}
	permitted, effective := uint64(sets[1].Permitted)<<32|uint64(sets[0].Permitted), uint64(sets[1].Effective)<<32|uint64(sets[0].Effective)
	acts, reads := d.keep(permitted)
	for bit := 0; effective&(1<<unix.CAP_SETPCAP) != 0; bit++ {
		bounded, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(bit), 0, 0, 0)
		if err != nil {
			break // there are no more
		}
		if bounded == 0 || (acts|reads)&(1<<bit) != 0 {
			continue
		}
		if err := onAllThreads(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(bit)); err != nil {
			return fmt.Errorf("drop capability %d from the bounding set: %w", bit, err)
		}
	}
	had := sets
	effective &= reads
	if d.CallsBPF {
		effective |= reads & (1 << unix.CAP_BPF) // a file's capabilities need not be in effect
	}
	if d.Signals {
		effective |= reads & toSignal
	}
	for i := range sets {
		sets[i].Permitted, sets[i].Effective = uint32((acts|reads)>>(32*i)), uint32(effective>>(32*i))
		sets[i].Inheritable = 0 // an ambient capability is inheritable, and goes with it
	}
	if sets == had {
		return nil
	}
	if err := onAllThreads(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&self)), uintptr(unsafe.Pointer(&sets[0]))); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	return nil
}
