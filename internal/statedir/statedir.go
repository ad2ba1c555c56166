// Package statedir is the directory in which a daemon keeps what must outlive
// it. A daemon with privileges writes there, so nothing in it is trusted for its
// name: the directory is opened once, and each file beneath it is a regular one
// of the daemon's own, or is not used.
package statedir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const lockName = "lock"

// Dir is an open state directory, safe for concurrent use.
type Dir struct {
	path string
	dir  *os.File
	lock *os.File // nil: it is only to read what another process writes

	mu sync.Mutex // held by Check
}

// ErrInUse says that another process writes to the directory.
var ErrInUse = errors.New("in use by another sockdog: give each a directory of its own")

// Open opens the directory at path for the one process that writes to it, and
// makes it where there is none. Where it may only be read, because it is in use or
// cannot be written to, it is returned beside the error, for that.
func Open(path string) (*Dir, error) {
	d, err := open(path, true, false)
	if err != nil {
		return nil, err
	}
	return d, d.takeLock()
}

// OpenToRead opens the directory at path beside the process that writes to it.
func OpenToRead(path string) (*Dir, error) { return open(path, false, true) }

func open(path string, create, read bool) (*Dir, error) {
	dir, err := walk(path, create)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	if err := trusted(dir, read); err != nil {
		dir.Close()
		return nil, err
	}
	return &Dir{path: path, dir: dir}, nil
}

// takeLock makes this process the one that writes to the directory, for as long as
// the file is open.
func (d *Dir) takeLock() error {
	f, err := d.openFile(lockName, os.O_RDWR|os.O_CREATE, false)
	if err != nil {
		return err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		d.lock = f
		return nil
	}
	f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("directory %s is %w", d.path, ErrInUse)
	}
	return &os.PathError{Op: "lock", Path: f.Name(), Err: err}
}

// Check reports whether the path still names the directory. Where another one
// stands in its place, that is used from now on, if it can be.
func (d *Dir) Check() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var named unix.Stat_t
	if d.holds(lockName, d.lock) && unix.Stat(d.path, &named) == nil && is(&named, d.dir) {
		return nil
	}
	if err := d.takeAgain(); err != nil {
		return fmt.Errorf("the directory that was opened is gone, and what is written is lost when sockdog ends: %w", err)
	}
	return nil
}

// takeAgain uses the directory that the path names now. It takes over the descriptors,
// so that whoever uses one meanwhile has the old directory or the new one.
func (d *Dir) takeAgain() error {
	next, err := open(d.path, false, false)
	if err != nil {
		return err
	}
	defer next.Close()
	if err := next.takeLock(); err != nil {
		return err
	}
	return errors.Join(
		unix.Dup3(int(next.dir.Fd()), int(d.dir.Fd()), unix.O_CLOEXEC),
		unix.Dup3(int(next.lock.Fd()), int(d.lock.Fd()), unix.O_CLOEXEC))
}

// Path is where the directory was opened.
func (d *Dir) Path() string { return d.path }

// OpenFile opens a file of the directory, which is regular and nobody else's.
func (d *Dir) OpenFile(name string, flag int) (*os.File, error) {
	return d.openFile(name, flag, d.lock == nil)
}

// create makes a file afresh: what stood under its name is removed.
func (d *Dir) create(name string, flag int) (*os.File, error) {
	if err := d.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return d.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL|flag)
}

// Replace puts a new file in the place of the one under the name, once write has
// filled it, and returns it open. Until then, and after an error, the old one stands.
func (d *Dir) Replace(name string, flag int, write func(f *os.File) error) (*os.File, error) {
	temp := name + ".new"
	f, err := d.create(temp, flag)
	if err != nil {
		return nil, err
	}
	if err = write(f); err == nil {
		err = d.Rename(temp, name)
	}
	if err != nil {
		f.Close()
		d.Remove(temp)
		return nil, err
	}
	return f, nil
}

// Holds checks the directory, and reports whether the open file still stands under
// the name.
func (d *Dir) Holds(name string, f *os.File) (bool, error) {
	if err := d.Check(); err != nil {
		return false, err
	}
	return d.holds(name, f), nil
}

func (d *Dir) holds(name string, f *os.File) bool {
	var now unix.Stat_t
	return unix.Fstatat(int(d.dir.Fd()), name, &now, unix.AT_SYMLINK_NOFOLLOW) == nil && is(&now, f)
}

// Stands says who put there what stands under the name, and when it was changed last; it
// need be no file that OpenFile opens. The error is fs.ErrNotExist where nothing stands
// there. Any other says that this cannot be told: the directory is not at its path any
// more, or it is by somebody who may only write to it because it is sticky.
func (d *Dir) Stands(name string) (uid uint32, at time.Time, err error) {
	var named, stat unix.Stat_t
	if err := unix.Stat(d.path, &named); err != nil || !is(&named, d.dir) {
		return 0, time.Time{}, fmt.Errorf("the directory %s is not there any more", d.path)
	}
	if err := unix.Fstatat(int(d.dir.Fd()), name, &stat, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return 0, time.Time{}, d.pathError("stat", name, err)
	}
	if err := unix.Fstat(int(d.dir.Fd()), &named); err != nil {
		return 0, time.Time{}, d.pathError("stat", ".", err)
	}
	switch {
	case !ours(&stat) && stat.Uid != named.Uid:
		err = fmt.Errorf("it belongs to user %d: sockdog uses no file of another's", stat.Uid)
	case stat.Mode&unix.S_IFMT == unix.S_IFREG && stat.Nlink > 1: // made by whom, its owner does not tell
		err = proper(&stat)
	}
	return stat.Uid, time.Unix(stat.Mtim.Unix()), d.pathError("stat", name, err)
}

// Give makes a file that was created in the directory its owner's, if this is root's
// process: it must be able to read it.
func (d *Dir) Give(f *os.File) error {
	var stat unix.Stat_t
	if os.Geteuid() != 0 {
		return nil
	}
	if err := unix.Fstat(int(d.dir.Fd()), &stat); err != nil {
		return d.pathError("stat", ".", err)
	}
	return f.Chown(int(stat.Uid), int(stat.Gid))
}

// is reports whether that is the open file.
func is(now *unix.Stat_t, f *os.File) bool {
	var then unix.Stat_t
	return unix.Fstat(int(f.Fd()), &then) == nil && now.Dev == then.Dev && now.Ino == then.Ino
}

// Nameless reports whether an open file was removed: what is written to it, nobody
// will ever read.
func Nameless(f *os.File) bool {
	var stat unix.Stat_t
	return unix.Fstat(int(f.Fd()), &stat) == nil && stat.Nlink == 0
}

// Rename puts a file in the place of another.
func (d *Dir) Rename(from, to string) error {
	return d.pathError("rename", from, unix.Renameat(int(d.dir.Fd()), from, int(d.dir.Fd()), to))
}

// Remove removes a file.
func (d *Dir) Remove(name string) error {
	return d.pathError("remove", name, unix.Unlinkat(int(d.dir.Fd()), name, 0))
}

// Sync makes the names in the directory outlast a power cut.
func (d *Dir) Sync() error { return d.dir.Sync() }

// Close lets others write to the directory.
func (d *Dir) Close() {
	d.dir.Close()
	d.lock.Close() // nil is closed, too
}
