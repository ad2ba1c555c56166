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
	least := int64(noLimit)
	for line := range strings.Lines(string(text)) {
		// 0::/system.slice/sockdog.service, and 4:memory:/docker/1f2e in version 1.
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) < 3 {
			continue
		}
		switch {
		case fields[0] == "0" && fields[1] == "":
			least = min(least, limitIn(root, "sys/fs/cgroup", fields[2], "memory.max"))
		case fields[1] == "memory":
			least = min(least, limitIn(root, "sys/fs/cgroup/memory", fields[2], "memory.limit_in_bytes"))
		}
	}
	if least == noLimit {
		return 0
	}
	return least
}

// noLimit and more is what version 1 shows where there is none.
const noLimit = 1 << 60

// limitIn is the least limit in a cgroup and all above it. In a container the
// path may be the host's, and only the root to be seen.
func limitIn(root fs.FS, mount, name, file string) int64 {
	least := int64(noLimit)
	for name = path.Clean("/" + name); ; name = path.Dir(name) {
		text, _ := fs.ReadFile(root, path.Join(mount, name, file))
		// Not a number is "max", or what cannot be read; 0 bounds nothing.
		if n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && n > 0 {
			least = min(least, n)
		}
		if name == "/" {
			return least
		}
	}
}
