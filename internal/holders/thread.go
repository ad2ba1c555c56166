package holders

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// threads is how many threads a process has, whose directory of descriptors is open.
func threads(dir int) int {
	var st unix.Stat_t
	if unix.Fstatat(dir, "../task", &st, 0) != nil {
		return 0
	}
	return int(st.Nlink) - 2 // proc_task_getattr()
}

// thread is table for a process whose first thread has ended, and with it what /proc/PID/fd
// shows: the others go on with its descriptors.
func (w *walk) thread(dir, pid int) error {
	tasks, err := openDir(dir, "../task")
	if err != nil {
		return unlessGone(err)
	}
	defer unix.Close(tasks)
	done := false
	w.ofThread = true
	defer func() { w.ofThread = false }()
	return unlessGone(new(lister).eachNumber(tasks, func(tid int, _ []byte) error {
		if tid == pid || done {
			return nil
		}
		fds, err := openDir(tasks, strconv.Itoa(tid)+"/fd")
		if err != nil {
			return unlessGone(err) // another thread may be there
		}
		defer unix.Close(fds)
		n, err := w.table(fds, pid)
		done = n > 0
		return err
	}))
}
