package sock

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
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
	offset, err := TimeNamespaceOffset(unix.CLOCK_MONOTONIC)
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

// ThreadTime returns the CPU time that the calling thread has used; 0: it cannot be read.
// RUSAGE_THREAD counts in ticks, and reads 0 for most scans.
func ThreadTime() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// TimeNamespaceOffset returns what the time namespace adds to a clock, which is
// CLOCK_MONOTONIC or CLOCK_BOOTTIME (time_namespaces(7)).
func TimeNamespaceOffset(clock int32) (time.Duration, error) {
	return timensOffset("/proc/self/timens_offsets", clock)
}

// timensNames are what the clocks are called there; they may stand there by number, too.
var timensNames = map[int32]string{unix.CLOCK_MONOTONIC: "monotonic", unix.CLOCK_BOOTTIME: "boottime"}

// timensOffset reads the offset of a clock; a kernel without time
// namespaces has no such file, and no offset.
func timensOffset(path string, of int32) (time.Duration, error) {
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
		if n, _ := fmt.Sscan(line, &clock, &sec, &nsec); n == 3 && (clock == timensNames[of] || clock == strconv.Itoa(int(of))) {
			return time.Duration(sec)*time.Second + time.Duration(nsec), nil
		}
	}
	return 0, nil
}
