package events

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/cgroup"
)

// rootID is the inode number of the root of cgroup2: the first that kernfs gives. In a cgroup
// namespace of its own, a process sees another directory as the root.
const rootID = 1

// CgroupRoot finds the root of the hierarchy of cgroup v2, below which are all sockets of the
// host. In a container it is there only if it was mounted from the host.
func CgroupRoot() (string, error) {
	mountinfo, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("find the root of cgroup v2: %w", err)
	}
	defer mountinfo.Close()
	var part string
	for at := range cgroup.Mounts(mountinfo) {
		var st unix.Stat_t
		if unix.Stat(at, &st) == nil && st.Ino == rootID {
			return at, nil
		}
		part = at
	}
	if part != "" {
		return "", fmt.Errorf("%s shows a part of cgroup v2 only: mount the host's /sys/fs/cgroup", part)
	}
	return "", errors.New("cgroup v2 is not mounted")
}
