package holders

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Usage is how much CPU a process has used.
type Usage struct {
	Start uint64        // in clock ticks after boot: with its PID, it names one life of a process
	CPU   time.Duration // of all its threads, those that have ended too
	Lived time.Duration // since Start
	// Waited is for how long the threads that there are could have run, while others
	// did or their cgroup had used up its quota; Unknown: it is not known.
	Waited time.Duration
	// Runs is how often a processor was given to them; below 0: it is not known.
	Runs int64
}

// Unknown is a time that nobody knows.
const Unknown time.Duration = -1

// mostThreads is of how many threads of a process it is read how long they have
// waited: each takes some microseconds.
const mostThreads = 64

// tick is the unit of times in /proc/PID/stat: USER_HZ is 100 on every platform
// that Go runs on.
const tick = 10 * time.Millisecond

// ReadUsage reads the usage of a process under root, a mounted proc(5). It takes no
// privilege.
func ReadUsage(root string, pid int) (Usage, error) {
	path := filepath.Join(root, strconv.Itoa(pid), "stat")
	s, err := readStat(unix.AT_FDCWD, path)
	if err != nil {
		return Usage{}, &os.PathError{Op: "read", Path: path, Err: err}
	}
	user, err1 := s.number(14)
	system, err2 := s.number(15)
	threads, err3 := s.number(20)
	start, err4 := s.number(22)
	if err1 != nil || err2 != nil || err3 != nil || err4 != nil {
		return Usage{}, fmt.Errorf("read CPU usage: %s is not as proc_pid_stat(5) says", path)
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return Usage{}, os.NewSyscallError("clock_gettime", err)
	}
	waited, runs := Unknown, int64(-1)
	if threads <= mostThreads {
		waited, runs = readWaited(filepath.Join(root, strconv.Itoa(pid), "task"))
	}
	return Usage{Start: start, CPU: time.Duration(user+system) * tick, Lived: time.Duration(now.Nano()) - time.Duration(start)*tick, Waited: waited, Runs: runs}, nil
}

// readWaited adds up how long threads have waited to run, and how often they ran, of which
// the kernel keeps no sums. A thread that has just ended does not count.
func readWaited(dir string) (time.Duration, int64) {
	threads, err := os.ReadDir(dir)
	if err != nil {
		return Unknown, -1
	}
	var sum time.Duration
	var runs int64
	for _, t := range threads {
		var buf [128]byte
		text, err := readFileAt(unix.AT_FDCWD, filepath.Join(dir, t.Name(), "schedstat"), buf[:])
		if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) && gone(filepath.Join(dir, t.Name())) {
			continue
		}
		fields := bytes.Fields(text) // time run, time waited, times run
		if err != nil || len(fields) != 3 {
			return Unknown, -1 // as on kernels without CONFIG_SCHED_INFO
		}
		waited, err1 := strconv.ParseInt(string(fields[1]), 10, 64)
		ran, err2 := strconv.ParseInt(string(fields[2]), 10, 64)
		if err1 != nil || err2 != nil {
			return Unknown, -1
		}
		sum += time.Duration(waited)
		runs += ran
	}
	return sum, runs
}

func gone(path string) bool {
	_, err := os.Lstat(path)
	return os.IsNotExist(err)
}
