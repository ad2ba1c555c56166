package nstest

import (
	"errors"
	"fmt"
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
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("find cgroup2: %w", err)
	}
	memberships, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("find the own cgroup: %w", err)
	}
	var below string
	for line := range strings.Lines(string(memberships)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			below = path
		}
	}
	for line := range strings.Lines(string(mounts)) {
		// See proc_pid_mountinfo(5): the type comes after the first hyphen.
		mount, kind, _ := strings.Cut(line, " - ")
		if fields := strings.Fields(mount); strings.HasPrefix(kind, "cgroup2 ") && len(fields) > 4 && below != "" {
			return Cgroup(filepath.Join(fields[4], below)), nil
		}
	}
	return "", errors.New("find the own cgroup: cgroup2 is not mounted")
}

// New makes a cgroup below g. It takes the right to write there.
func (g Cgroup) New(name string) (Cgroup, error) {
	below := Cgroup(filepath.Join(string(g), name))
	if err := os.Mkdir(string(below), 0o755); err != nil {
		return "", fmt.Errorf("make a cgroup: %w", err)
	}
	return below, nil
}

// Enter moves this process into g: what it opens from now on belongs there.
func (g Cgroup) Enter() error {
	procs := filepath.Join(string(g), "cgroup.procs")
	if err := os.WriteFile(procs, []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
		return fmt.Errorf("enter a cgroup: %w", err)
	}
	return nil
}

// Remove removes g, which the process must have left. Its sockets keep its id.
func (g Cgroup) Remove() error {
	deadline := time.Now().Add(patience)
	for {
		// A thread that is about to end does not move any more (cgroup_migrate_add_task).
		err := os.Remove(string(g))
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}
