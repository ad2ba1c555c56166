package reload

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/readfile"
)

// File is one reading of the file: its bytes, or why there are none.
type File struct {
	Data []byte
	Err  error
}

// same reports whether two readings say the same.
func (f File) same(g File) bool {
	return bytes.Equal(f.Data, g.Data) && fmt.Sprint(f.Err) == fmt.Sprint(g.Err)
}

// read reads the file at path, whole or not at all.
func read(path string) (f File) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return File{Err: fmt.Errorf("read %s: it is a directory; all rules stand in one file: name that", path)}
	}
	f.Data, f.Err = readfile.Regular(path)
	f.Err = WithCure(f.Err, path)
	return f
}

// WithCure says of the error of reading the file at path how this process may read it, where it
// may not.
func WithCure(err error, path string) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: sockdog runs as user %d, who may not read it: %s", err, os.Geteuid(), readable(path))
	}
	return err
}

// readable says how the file at path becomes readable to every user: root's umask may have made
// it, or a directory on the way to it, for root alone.
func readable(path string) (cure string) {
	cure = "chmod 644 " + path
	follow(path, func(name string, kind uint32, _ *unix.Stat_t, _ bool) bool {
		if kind == unix.S_IFDIR && unix.Faccessat(unix.AT_FDCWD, name, unix.X_OK, unix.AT_EACCESS) != nil {
			cure = "chmod 755 " + name
			return false
		}
		return true
	})
	return cure
}
