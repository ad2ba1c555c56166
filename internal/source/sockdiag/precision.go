package sockdiag

import (
	"time"

	"golang.org/x/sys/unix"
)

// lateTick is how far jiffies may fall behind the clock. The tick that counts
// them comes late where interrupts are off for long, or the hypervisor runs
// somebody else: 7 ms were measured in a virtual machine with HZ=250, and up to 91
// ms where the guest was starved. To allow for that everywhere would make each
// kill later by as much.
const lateTick = 10 * time.Millisecond

// Precision bounds the error of every time that tcp_info gives: one tick of the
// kernel, which is the resolution of CLOCK_MONOTONIC_COARSE, and what that may be
// late. Where it cannot be read, the tick is the longest that Linux is built with.
func Precision() time.Duration {
	var tick unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &tick); err != nil {
		return 10*time.Millisecond + lateTick
	}
	return time.Duration(tick.Nano()) + lateTick
}
