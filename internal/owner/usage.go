package owner

import (
	"bytes"
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
}

// tick is the unit of times in /proc/PID/stat: USER_HZ is 100 on every platform
// that Go runs on.
const tick = 10 * time.Millisecond

// ReadUsage reads the usage of a process under root, a mounted proc(5). It takes no
// privilege.
func ReadUsage(root string, pid int) (Usage, error) {
	path := filepath.Join(root, strconv.Itoa(pid), "stat")
	var buf [1024]byte
	n, err := readFileAt(unix.AT_FDCWD, path, buf[:])
	if err != nil {
		return Usage{}, &os.PathError{Op: "read", Path: path, Err: err}
	}
	s := parseStat(buf[:n])
	user, err1 := s.number(14)
	system, err2 := s.number(15)
	start, err3 := s.number(22)
	if err1 != nil || err2 != nil || err3 != nil {
		return Usage{}, fmt.Errorf("read CPU usage: %s is not as proc_pid_stat(5) says", path)
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return Usage{}, os.NewSyscallError("clock_gettime", err)
	}
	return Usage{Start: start, CPU: time.Duration(user+system) * tick, Lived: time.Duration(now.Nano()) - time.Duration(start)*tick}, nil
}

// stat is what stands in /proc/PID/stat after the command, which is in parentheses
// and may hold some of its own: the third field and those that follow.
type stat [][]byte

func parseStat(line []byte) stat { return bytes.Fields(line[bytes.LastIndexByte(line, ')')+1:]) }

// number is a field as proc_pid_stat(5) counts them.
func (s stat) number(field int) (uint64, error) {
	if field-3 >= len(s) {
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseUint(string(s[field-3]), 10, 64)
}
