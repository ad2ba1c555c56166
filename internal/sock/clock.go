package sock

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Clock returns a function that reads the time as an Instant. It reads
// CLOCK_MONOTONIC at first, takes off the time namespace's offset
// (time_namespaces(7)), and counts on with the runtime's clock, so that a test
// under testing/synctest governs it.
func Clock() (func() Instant, error) {
	// A thread that waits for a processor between the two clocks would have the instants late
	// for as long as sockdog runs, and every kill: so the closest of some readings counts.
	var start time.Time
	var base Instant
	closest := time.Duration(math.MaxInt64)
	for range 10 {
		before, err := monotonic()
		now := time.Now()
		after, errAfter := monotonic()
		if err := errors.Join(err, errAfter); err != nil {
			return nil, fmt.Errorf("read CLOCK_MONOTONIC: %w", err)
		}
		if between := after.Sub(before); between < closest {
			base, start, closest = before, now, between
		}
	}
	offset, err := timensOffset("/proc/self/timens_offsets")
	if err != nil {
		return nil, err
	}
	base = base.Add(-offset)
	return func() Instant { return base.Add(time.Since(start)) }, nil
}

func monotonic() (Instant, error) {
	var ts unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return Instant(ts.Nano()), err
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
