package events

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// rootID is the inode number of the root of cgroup2: the first that kernfs gives.
const rootID = 1

// CgroupRoot finds the root of the hierarchy of cgroup v2, below which are all sockets of the
// host. In a container it is there only if it was mounted from the host.
func CgroupRoot() (string, error) {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("find the root of cgroup v2: %w", err)
	}
	defer file.Close()
	var part string
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		// 41 31 0:38 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw
		mount, source, _ := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(mount)
		if len(fields) < 5 || !strings.HasPrefix(source, "cgroup2 ") {
			continue
		}
		at := unescape.Replace(fields[4])
		var fs unix.Statfs_t
		var st unix.Stat_t
		if unix.Statfs(at, &fs) != nil || fs.Type != unix.CGROUP2_SUPER_MAGIC || unix.Stat(at, &st) != nil {
			continue // something else is mounted over it
		}
		if st.Ino == rootID {
			return at, nil
		}
		part = at
	}
	switch err := lines.Err(); {
	case err != nil:
		return "", fmt.Errorf("find the root of cgroup v2: %w", err)
	case part != "":
		return "", fmt.Errorf("%s shows a part of cgroup v2 only: mount the host's /sys/fs/cgroup", part)
	default:
		return "", fmt.Errorf("cgroup v2 is not mounted")
	}
}

// unescape undoes what seq_path does to names.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
