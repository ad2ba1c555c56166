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

	"golang.org/x/sys/unix"
)

const lockName = "lock"

// Dir is an open state directory, safe for concurrent use.
type Dir struct {
	path string
	read bool // only to read what another process writes

	mu   sync.Mutex
	dir  *os.File
	lock *os.File // nil: not held
}

// ErrInUse says that another process writes to the directory.
var ErrInUse = errors.New("in use by another sockdog: give each a directory of its own")

// Open opens the directory at path for the one process that writes to it, and
// makes it where there is none. Where it may only be read, because it is in use or
// cannot be written to, it is returned beside the error, for that.
func Open(path string) (*Dir, error) {
	dir, err := openDir(path, true)
	if err != nil {
		return nil, err
	}
	if err := trusted(dir, false); err != nil {
		dir.Close()
		return nil, err
	}
	lock, err := lockIn(dir)
	return &Dir{path: path, read: err != nil, dir: dir, lock: lock}, err
}

// OpenToRead opens the directory at path beside the process that writes to it.
func OpenToRead(path string) (*Dir, error) {
	dir, err := openDir(path, false)
	if err == nil {
		err = trusted(dir, true)
	}
	if err != nil {
		dir.Close() // nil is closed, too
		return nil, err
	}
	return &Dir{path: path, read: true, dir: dir}, nil
}

// lockIn makes this process the one that writes to the directory, for as long as
// the file is open.
func lockIn(dir *os.File) (*os.File, error) {
	f, err := openIn(dir, lockName, os.O_RDWR|os.O_CREATE, false)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("directory %s is %w", dir.Name(), ErrInUse)
	}
	return nil, &os.PathError{Op: "lock", Path: f.Name(), Err: err}
}

// Check reports whether the path still names the directory. Where another one
// stands in its place, that is used from now on, if it can be.
func (d *Dir) Check() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if holds(d.dir, lockName, d.lock) && d.named() {
		return nil
	}
	if err := d.takeAgain(); err != nil {
		return fmt.Errorf("the directory that was opened is gone, and what is written is lost when sockdog ends: %w", err)
	}
	return nil
}

// takeAgain uses the directory that the path names now.
func (d *Dir) takeAgain() error {
	dir, err := openDir(d.path, false)
	if err != nil {
		return err
	}
	err = trusted(dir, false)
	var lock *os.File
	if err == nil {
		lock, err = lockIn(dir)
	}
	if err != nil {
		dir.Close()
		return err
	}
	d.close()
	d.dir, d.lock = dir, lock
	return nil
}

// named reports whether the path still names the open directory.
func (d *Dir) named() bool {
	var now unix.Stat_t
	return unix.Stat(d.path, &now) == nil && is(&now, d.dir)
}

// Path is where the directory was opened.
func (d *Dir) Path() string { return d.path }

// OpenFile opens a file of the directory, which is regular and nobody else's.
func (d *Dir) OpenFile(name string, flag int) (*os.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return openIn(d.dir, name, flag, d.read)
}

// Create makes a file afresh: what stood under its name is removed.
func (d *Dir) Create(name string, flag int) (*os.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := remove(d.dir, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return openIn(d.dir, name, os.O_RDWR|os.O_CREATE|os.O_EXCL|flag, d.read)
}

// Replace puts a new file in the place of the one under the name, once write has
// filled it, and returns it open. Until then, and after an error, the old one stands.
func (d *Dir) Replace(name string, flag int, write func(f *os.File) error) (*os.File, error) {
	temp := name + ".new"
	f, err := d.Create(temp, flag)
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

// Holds reports whether the open file still stands under the name.
func (d *Dir) Holds(name string, f *os.File) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return holds(d.dir, name, f)
}

func holds(dir *os.File, name string, f *os.File) bool {
	var now unix.Stat_t
	return unix.Fstatat(int(dir.Fd()), name, &now, unix.AT_SYMLINK_NOFOLLOW) == nil && is(&now, f)
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
	d.mu.Lock()
	defer d.mu.Unlock()
	err := unix.Renameat(int(d.dir.Fd()), from, int(d.dir.Fd()), to)
	return pathError("rename", d.dir, from, err)
}

// Remove removes a file.
func (d *Dir) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return remove(d.dir, name)
}

func remove(dir *os.File, name string) error {
	return pathError("remove", dir, name, unix.Unlinkat(int(dir.Fd()), name, 0))
}

// Sync makes the names in the directory outlast a power cut.
func (d *Dir) Sync() error {
	d.mu.Lock()
	fd, err := unix.FcntlInt(d.dir.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	d.mu.Unlock()
	if err != nil {
		return pathError("sync", d.dir, ".", err)
	}
	dir := os.NewFile(uintptr(fd), d.path) // an fsync can take seconds: the lock is not held
	defer dir.Close()
	return dir.Sync()
}

// Close lets others write to the directory.
func (d *Dir) Close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.close()
}

func (d *Dir) close() {
	d.dir.Close() // nil is closed, too
	d.lock.Close()
}
