package holders

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/sock"
)

// Descriptors are how many descriptors a process has, and how many it may have.
type Descriptors struct {
	Used  int
	Limit uint64 // its soft RLIMIT_NOFILE; 0: none
}

// ReadDescriptors reads those of a process under root, a mounted proc(5). Since Linux 6.2
// that takes no privilege; before, as much as to find what the process holds.
func ReadDescriptors(root string, pid int) (Descriptors, error) {
	path := filepath.Join(root, strconv.Itoa(pid))
	used, err := countDescriptors(filepath.Join(path, "fd"))
	if err != nil {
		return Descriptors{}, err
	}
	var buf [4096]byte
	limits, err := readFileAt(unix.AT_FDCWD, filepath.Join(path, "limits"), buf[:])
	if err != nil {
		return Descriptors{}, &os.PathError{Op: "read", Path: path + "/limits", Err: err}
	}
	limit, ok := parseOpenFiles(limits)
	if !ok {
		return Descriptors{}, fmt.Errorf("read the limit of descriptors: %s/limits is not as proc_pid_limits(5) says", path)
	}
	return Descriptors{Used: used, Limit: limit}, nil
}

// ReadDescriptorsOf is ReadDescriptors for one life of a process: it is an error where its PID was given
// to another meanwhile.
func ReadDescriptorsOf(root string, h sock.Holder) (Descriptors, error) {
	d, err := ReadDescriptors(root, h.PID)
	if err == nil {
		err = stillIs(root, h)
	}
	if err != nil {
		return Descriptors{}, err
	}
	return d, nil
}

// ReadDescriptors is ReadDescriptorsOf where the Finder walks.
func (f *Finder) ReadDescriptors(h sock.Holder) (Descriptors, error) {
	return ReadDescriptorsOf(f.root, h)
}

// stillIs is the error that a process has ended, and its PID may be another's. Whose start is not known
// is taken for the same.
func stillIs(root string, h sock.Holder) error {
	if h.Start == 0 {
		return nil
	}
	start, err := ReadStart(root, h.PID)
	if err == nil && start != h.Start {
		err = fmt.Errorf("process %d has ended, and its number is another's: %w", h.PID, unix.ESRCH)
	}
	return err
}

// countDescriptors counts the entries of a directory of descriptors. Its size is their
// number since Linux 6.2 (commit f1f1f2569901), and 0 before.
func countDescriptors(dir string) (int, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	var fs unix.Statfs_t
	if st.Size > 0 && unix.Statfs(dir, &fs) == nil && fs.Type == unix.PROC_SUPER_MAGIC {
		return int(st.Size), nil
	}
	fd, err := openDir(unix.AT_FDCWD, dir)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	n := 0
	err = new(lister).eachNumber(fd, func(int, []byte) error { n++; return nil })
	return n, err
}

// parseOpenFiles finds the soft limit of descriptors in the text of /proc/PID/limits; 0:
// there is none.
func parseOpenFiles(limits []byte) (limit uint64, ok bool) {
	for line := range bytes.Lines(limits) {
		rest, found := bytes.CutPrefix(line, []byte("Max open files"))
		if !found {
			continue
		}
		fields := bytes.Fields(rest)
		if len(fields) < 2 {
			return 0, false
		}
		if string(fields[0]) == "unlimited" {
			return 0, true
		}
		limit, err := strconv.ParseUint(string(fields[0]), 10, 64)
		return limit, err == nil
	}
	return 0, false
}
