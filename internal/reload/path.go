package reload

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is the kernel's MAXSYMLINKS: no path leads further than that.
const maxLinks = 40

// follow calls visit with what path leads through, as the kernel follows it, until that
// returns false: with directories, symbolic links, and what stands at the end, which is
// last, or where the way is broken. A kind of 0 means that there is nothing.
func follow(path string, visit func(name string, kind uint32, stat *unix.Stat_t, last bool) bool) {
	dir, rest := ".", strings.Split(path, "/")
	if filepath.IsAbs(path) {
		dir = "/"
	}
	for links := 0; len(rest) > 0 && links <= maxLinks; {
		name := filepath.Join(dir, rest[0])
		var stat unix.Stat_t
		unix.Lstat(name, &stat)
		if !visit(name, stat.Mode&unix.S_IFMT, &stat, len(rest) == 1) {
			return
		}
		rest = rest[1:]
		unix.Lstat(name, &stat) // what counts is what is there after the visit
		if stat.Mode&unix.S_IFMT == unix.S_IFDIR {
			dir = name
			continue
		}
		target, err := os.Readlink(name)
		if err != nil {
			return
		}
		links++
		rest = append(strings.Split(target, "/"), rest...)
		if filepath.IsAbs(target) {
			dir = "/"
		}
	}
}
