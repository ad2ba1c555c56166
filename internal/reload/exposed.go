package reload

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Exposed says how others than root and this user can change what the file at path
// says, and what keeps them from it: they may write to it, or to a directory on the way, in
// which they can put another in its place. It is "" where they cannot, or where that cannot
// be seen.
func Exposed(path string) (who, cure string) {
	if !filepath.IsAbs(path) {
		at, err := os.Getwd()
		if err != nil {
			return "", ""
		}
		path = at + "/" + path
	}
	sticky := false // each may replace what is his own in the directory
	follow(path, func(name string, kind uint32, stat *unix.Stat_t, _ bool) bool {
		switch {
		case kind == unix.S_IFLNK && sticky && !ours(stat.Uid): // a link cannot be written to, but be replaced
			who, cure = fmt.Sprintf("user %d may replace the link %s", stat.Uid, name), "chown -h root "+name
		case kind != unix.S_IFLNK && kind != 0:
			who, cure = writers(name, stat)
			sticky = kind == unix.S_IFDIR && stat.Mode&unix.S_ISVTX != 0
		}
		return who == ""
	})
	return who, cure
}

// writers says which others may write to a file or directory, and what keeps them from it.
func writers(name string, stat *unix.Stat_t) (who, cure string) {
	var system unix.Statfs_t
	if unix.Statfs(name, &system) == nil && system.Flags&unix.ST_RDONLY != 0 {
		return "", "" // a ConfigMap, say, whose directory has mode 0777
	}
	user, group := uint32(os.Geteuid()), uint32(os.Getegid())
	mode := fs.FileMode(stat.Mode & 0o777)
	switch {
	case !ours(stat.Uid):
		return fmt.Sprintf("%s belongs to user %d, who may write to it", name, stat.Uid), "chown root " + name
	case stat.Mode&unix.S_ISVTX != 0 && stat.Mode&unix.S_IFMT == unix.S_IFDIR:
		return "", "" // others may not replace what is ours
	case mode&0o002 != 0:
		return fmt.Sprintf("everybody may write to %s (%v)", name, mode), "chmod go-w " + name
	case mode&0o020 != 0 && stat.Gid != 0 && (stat.Gid != group || group != user): // a group of the user's own has his number
		return fmt.Sprintf("group %d may write to %s (%v)", stat.Gid, name, mode), "chmod g-w " + name
	default:
		return "", ""
	}
}

// nobody stands for every user whom this user namespace does not know.
const nobody = 65534

// ours reports whether a user is root, this one, or cannot be told.
func ours(uid uint32) bool {
	return uid == 0 || uid == uint32(os.Geteuid()) || uid == nobody && !knowsAll()
}

// knowsAll reports whether this user namespace knows every user.
func knowsAll() bool {
	text, err := os.ReadFile("/proc/self/uid_map")
	fields := strings.Fields(string(text))
	return err == nil && len(fields) == 3 && fields[2] == "4294967295"
}
