package holders

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/sock"
)

// ReadAccepting reads how many threads of a process under root, a mounted proc(5), wait in
// accept(2) just now: of this life of it. A program that waits with epoll_wait(2) before it accepts has none
// there. Of one with very many threads it is not read.
func ReadAccepting(root string, h sock.Holder) (accepting int, err error) {
	type result struct {
		accepting int
		err       error
	}
	read := func(pid int) (r result) {
		r.accepting, r.err = readAccepting(root, pid)
		return r
	}
	// What a thread does is told under a lock that execve(2) holds while it reads a program.
	if hung := bounded([]int{h.PID}, PerProcess, read, func(r result) { accepting, err = r.accepting, r.err }); len(hung) > 0 {
		return 0, fmt.Errorf("process %d hangs when it is read", h.PID)
	}
	if err == nil {
		err = stillIs(root, h)
	}
	return accepting, err
}

func readAccepting(root string, pid int) (accepting int, err error) {
	dir := filepath.Join(root, strconv.Itoa(pid), "task")
	threads, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	if len(threads) > mostThreads {
		return 0, fmt.Errorf("process %d has %d threads: what they wait for is not read", pid, len(threads))
	}
	for _, t := range threads {
		var buf [128]byte
		// "43 0x3 ...": the number of the call, or "running", or -1.
		text, err := readFileAt(unix.AT_FDCWD, filepath.Join(dir, t.Name(), "syscall"), buf[:])
		if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) && gone(filepath.Join(dir, t.Name())) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("read what threads of process %d wait for: %w", pid, err)
		}
		call, _, _ := bytes.Cut(text, []byte(" "))
		if n, err := strconv.Atoi(string(call)); err == nil && (n == unix.SYS_ACCEPT || n == unix.SYS_ACCEPT4) {
			accepting++
		}
	}
	return accepting, nil
}
