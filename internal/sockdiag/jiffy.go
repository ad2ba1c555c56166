package sockdiag

import (
	"time"

	"golang.org/x/sys/unix"
)

// Jiffy is the resolution of every time that tcp_info gives: the tick of the
// kernel, which is also that of CLOCK_MONOTONIC_COARSE. Where it cannot be read
// it is the longest that Linux is built with.
func Jiffy() time.Duration {
	var tick unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &tick); err != nil {
		return 10 * time.Millisecond
	}
	return time.Duration(tick.Nano())
}
