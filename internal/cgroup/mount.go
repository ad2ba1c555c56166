package cgroup

import (
	"bufio"
	"io"
	"strings"

	"golang.org/x/sys/unix"
)

// mountPoint finds where cgroup2 is mounted in a file like /proc/self/mountinfo:
// as a whole if anywhere, else a part of it. It returns "" where it is not, or
// nowhere to be seen: another filesystem can be mounted over it.
func mountPoint(mountinfo io.Reader, seen func(point string) bool) string {
	var point string
	for lines := bufio.NewScanner(mountinfo); lines.Scan(); {
		// 41 31 0:38 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw
		mount, source, _ := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(mount)
		if len(fields) < 5 || !strings.HasPrefix(source, "cgroup2 ") {
			continue
		}
		at := unescape.Replace(fields[4])
		if root := fields[3]; (root == "/" || point == "") && seen(at) {
			point = at
			if root == "/" {
				break
			}
		}
	}
	return point
}

// unescape undoes what seq_path does to names.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// isCgroup2 reports whether it is cgroup2 that one sees at that path.
func isCgroup2(point string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(point, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC
}
