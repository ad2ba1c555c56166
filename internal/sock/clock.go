package sock

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Clock returns a function that reads the time as an Instant. It reads
// CLOCK_MONOTONIC once, takes off the time namespace's offset
// (time_namespaces(7)), and counts on with the runtime's clock, so that a test
// under testing/synctest governs it.
func Clock() (func() Instant, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return nil, fmt.Errorf("read CLOCK_MONOTONIC: %w", err)
	}
	start := time.Now()
	offset, err := timensOffset("/proc/self/timens_offsets")
	if err != nil {
		return nil, err
	}
	base := Instant(ts.Nano()).Add(-offset)
	return func() Instant { return base.Add(time.Since(start)) }, nil
}

// timensOffset reads the offset of CLOCK_MONOTONIC; a kernel without time
// namespaces has no such file, and no offset.
func timensOffset(path string) (time.Duration, error) {
	text, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("time namespace offset: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		var clock string
		var sec, nsec int64
		if n, _ := fmt.Sscan(line, &clock, &sec, &nsec); n == 3 && (clock == "monotonic" || clock == "1") {
			return time.Duration(sec)*time.Second + time.Duration(nsec), nil
		}
	}
	return 0, nil
}
