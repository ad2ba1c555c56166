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

// DropPrivileges takes from every thread the capabilities that the daemon does not
// work with, of those that it has: root starts it with all of them. What was opened
// before stays open. CAP_SYS_ADMIN it keeps to enter other network namespaces, and not
// where it never does.
func DropPrivileges(entersNamespaces bool) error {
	acts := uint32(toDestroy)
	if entersNamespaces {
		acts |= toEnter
	}
	self := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3} // pid 0: each thread itself
	var sets [2]unix.CapUserData
	if err := unix.Capget(&self, &sets[0]); err != nil {
		return fmt.Errorf("read the capabilities: %w", err)
	}
	has := func(bit int) bool { return sets[bit/32].Effective&(1<<(bit%32)) != 0 }
	reads := kept(sets[0].Permitted)
	for bit := 0; has(unix.CAP_SETPCAP); bit++ {
		bounded, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(bit), 0, 0, 0)
		if err != nil {
			break // there are no more
		}
		if keep := bit < 32 && (acts|reads)&(1<<bit) != 0; bounded == 0 || keep {
			continue
		}
		if _, _, errno := psx.Syscall6(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(bit), 0, 0, 0, 0); errno != 0 {
			return fmt.Errorf("drop capability %d from the bounding set: %w", bit, errno)
		}
	}
	had := sets
	sets[0].Permitted &= acts | reads
	sets[0].Effective &= reads
	sets[0].Inheritable = 0 // an ambient capability is inheritable, and goes with it
	sets[1] = unix.CapUserData{}
	if sets == had {
		return nil
	}
	if _, _, errno := psx.Syscall3(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&self)), uintptr(unsafe.Pointer(&sets[0])), 0); errno != 0 {
		return fmt.Errorf("drop capabilities: %w", errno)
	}
	return nil
}
