package sockdiag

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ErrNotPermitted is RaiseNetAdmin's error where there is nothing to raise.
var ErrNotPermitted = errors.New("CAP_NET_ADMIN is missing")

// RaiseNetAdmin makes CAP_NET_ADMIN effective for the calling thread, from which
// sockets are to be destroyed, and for no other. A file capability marked +p and
// not +ep leaves it merely permitted, so that the program also starts where it is
// not to be had. The thread must be locked.
func RaiseNetAdmin() error {
	self := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3} // pid 0: this thread
	var sets [2]unix.CapUserData
	if err := unix.Capget(&self, &sets[0]); err != nil {
		return fmt.Errorf("read the capabilities of this thread: %w", err)
	}
	const bit = 1 << unix.CAP_NET_ADMIN
	switch {
	case sets[0].Effective&bit != 0:
		return nil
	case sets[0].Permitted&bit == 0:
		return ErrNotPermitted
	}
	sets[0].Effective |= bit
	if err := unix.Capset(&self, &sets[0]); err != nil {
		return fmt.Errorf("raise CAP_NET_ADMIN: %w", err)
	}
	return nil
}
