package cgroup

import (
	"bufio"
	"io"
	"iter"
	"strings"

	"golang.org/x/sys/unix"
)

// Mounts returns where cgroup2 is mounted and seen, by a file like /proc/self/mountinfo, and
// what part of the hierarchy that is for this process.
func Mounts(mountinfo io.Reader) iter.Seq2[string, string] { return mounts(mountinfo, isCgroup2) }

func mounts(mountinfo io.Reader, seen func(point string) bool) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for lines := bufio.NewScanner(mountinfo); lines.Scan(); {
			// 41 31 0:38 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw
			mount, source, _ := strings.Cut(lines.Text(), " - ")
			fields := strings.Fields(mount)
			if len(fields) < 5 || !strings.HasPrefix(source, "cgroup2 ") {
				continue
			}
			if at := unescape.Replace(fields[4]); seen(at) && !yield(at, fields[3]) {
				return
			}
		}
	}
}

// mountPoint finds where cgroup2 is mounted in a file like /proc/self/mountinfo:
// as a whole if anywhere, else a part of it. It returns "" where it is not, or
// nowhere to be seen: another filesystem can be mounted over it.
func mountPoint(mountinfo io.Reader, seen func(point string) bool) string {
	var point string
	for at, root := range mounts(mountinfo, seen) {
		if root == "/" {
			return at
		}
		if point == "" {
			point = at
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
