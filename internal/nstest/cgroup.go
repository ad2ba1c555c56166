package nstest

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Cgroup is the directory of a control group of the second version.
type Cgroup string

// OwnCgroup is the one that this process belongs to.
func OwnCgroup() (Cgroup, error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	_, name, _ := strings.Cut("\n"+string(text), "\n0::")
	name, _, _ = strings.Cut(name, "\n")
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var fs unix.Statfs_t
		if unix.Statfs(root, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
			return Cgroup(filepath.Join(root, name)), nil
		}
	}
	return "", errors.New("find the own cgroup: cgroup2 is not mounted")
}

// New makes a cgroup below g. It takes the right to write there.
func (g Cgroup) New(name string) (Cgroup, error) {
	below := filepath.Join(string(g), name)
	return Cgroup(below), os.Mkdir(below, 0o755)
}

// Enter moves this process into g: what it opens from now on belongs there.
func (g Cgroup) Enter() error {
	return os.WriteFile(filepath.Join(string(g), "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0)
}

// Remove removes g, which the process must have left. Its sockets keep its id.
func (g Cgroup) Remove() error {
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		// A thread that is about to end does not move any more (cgroup_migrate_add_task).
		err := os.Remove(string(g))
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return err
		}
	}
}
