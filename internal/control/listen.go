package control

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// errInUse says that somebody listens on a path.
var errInUse = errors.New("another sockdog listens there")

// Listen listens on each of the paths that can be had, and refused says why of each that
// cannot; nil: all can. A command asks on one path, which may be any of them.
func Listen(paths []string) (listeners []*net.UnixListener, refused error) {
	var errs []string
	for _, path := range paths {
		l, err := listen(path)
		if err != nil {
			errs = append(errs, path+": "+err.Error())
			continue
		}
		listeners = append(listeners, l)
	}
	if len(errs) > 0 {
		refused = errors.New(strings.Join(errs, "; "))
	}
	return listeners, refused
}

// listen makes the socket at path, in the place of one that an earlier run left.
func listen(path string) (*net.UnixListener, error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("the path is longer than %d bytes (unix(7))", maxPath)
	}
	dir := filepath.Dir(path)
	var made error
	if dir == defaultDir {
		if made = os.Mkdir(dir, 0o700); errors.Is(made, fs.ErrExist) {
			made = nil
		}
	}
	// Two that start at once must not take each other's socket for a stale one.
	d, err := os.Open(dir)
	if err != nil {
		return nil, reason(cmp.Or(made, err))
	}
	defer d.Close()
	if err := trusted(d); err != nil {
		return nil, err
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("another sockdog is about to listen there: %w", err)
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		return nil, reason(err)
	}
	// Who connects before that is asked who he is, too.
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, reason(err)
	}
	return l, nil
}

// maxPath is how long the path of a socket may be, in bytes.
const maxPath = len(unix.RawSockaddrUnix{}.Path) - 1

// removeStale removes a socket on which nobody listens.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return reason(err)
	case info.Mode().Type() != fs.ModeSocket:
		return errors.New("something stands there that is no socket")
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	switch {
	case err == nil:
		conn.Close()
		return errInUse
	case errors.Is(err, unix.ECONNREFUSED):
		return reason(os.Remove(path))
	case errors.Is(err, unix.EAGAIN): // its queue is full
		return errInUse
	default:
		return reason(err)
	}
}

// trusted says why a directory is not to be used: who may write to it can put a socket of
// his own in the place of ours.
func trusted(dir *os.File) error {
	var stat unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &stat); err != nil {
		return err
	}
	if stat.Mode&0o022 != 0 && stat.Mode&unix.S_ISVTX == 0 {
		return errors.New("others may write to the directory")
	}
	if stat.Uid != 0 && int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("the directory belongs to user %d", stat.Uid)
	}
	return nil
}

// reason is an error without the path that it names once more.
func reason(err error) error {
	if path := (*fs.PathError)(nil); errors.As(err, &path) {
		return path.Err
	}
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		return op.Err
	}
	return err
}
