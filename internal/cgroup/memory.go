package cgroup

import (
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
)

// MemoryLimit is the least limit on memory, in bytes, of the cgroups that this
// process is in, of either version (memory.max, memory.limit_in_bytes); 0: there
// is none, or it cannot be read.
func MemoryLimit() int64 { return memoryLimit(os.DirFS("/")) }

func memoryLimit(root fs.FS) int64 {
	text, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return 0
	}
	var least int64
	for line := range strings.Lines(string(text)) {
		// 0::/system.slice/sockdog.service, and 4:memory:/docker/1f2e in version 1.
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) < 3 {
			continue
		}
		switch {
		case fields[0] == "0" && fields[1] == "":
			least = lesser(least, limitIn(root, "sys/fs/cgroup", fields[2], "memory.max"))
		case fields[1] == "memory":
			least = lesser(least, limitIn(root, "sys/fs/cgroup/memory", fields[2], "memory.limit_in_bytes"))
		}
	}
	return least
}

// limitIn is the least limit in a cgroup and all above it. In a container the
// path may be the host's, and only the root to be seen.
func limitIn(root fs.FS, mount, name, file string) int64 {
	var least int64
	for name = path.Clean("/" + name); ; name = path.Dir(name) {
		least = lesser(least, limitOf(root, path.Join(mount, name, file)))
		if name == "/" {
			return least
		}
	}
}

// noLimit and more is what version 1 shows where there is none.
const noLimit = 1 << 60

func limitOf(root fs.FS, file string) int64 {
	text, err := fs.ReadFile(root, file)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil || n >= noLimit {
		return 0 // "max"
	}
	return n
}

// lesser is the lesser of two limits, of which 0 is none.
func lesser(a, b int64) int64 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}
