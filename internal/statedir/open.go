package statedir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is the kernel's MAXSYMLINKS: no path leads further than that.
const maxLinks = 40

// walk opens the directory at path, and makes what is missing of it. It goes there
// step by step, because a link is followed only where nobody but root and this user
// can have made it.
func walk(path string, create bool) (*os.File, error) {
	at, links := unix.AT_FDCWD, 0
	defer func() { unix.Close(at) }() // does nothing to AT_FDCWD
	for rest := steps(path); len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		if name == "" {
			continue
		}
		next, target, err := enter(at, name, create)
		if err != nil {
			return nil, err
		}
		if target == "" {
			unix.Close(at)
			at = next
			continue
		}
		if links++; links > maxLinks {
			return nil, unix.ELOOP
		}
		rest = slices.Concat(steps(target), rest)
	}
	fd, err := openAt(at, ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// steps are the names that a path leads through, one from another.
func steps(path string) []string {
	names := strings.Split(path, "/")
	if filepath.IsAbs(path) {
		names[0] = "/"
	}
	return names
}

// enter opens what stands under the name, and makes a directory where that is
// nothing. Of a link it returns the target.
func enter(at int, name string, create bool) (fd int, target string, err error) {
	fd, err = openAt(at, name, unix.O_PATH|unix.O_NOFOLLOW)
	if create && errors.Is(err, fs.ErrNotExist) {
		if err := unix.Mkdirat(at, name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return -1, "", err
		}
		fd, err = openAt(at, name, unix.O_PATH|unix.O_NOFOLLOW)
	}
	if err != nil {
		return -1, "", err
	}
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil || stat.Mode&unix.S_IFMT != unix.S_IFLNK {
		return fd, "", err
	}
	defer unix.Close(fd)
	if !ours(&stat) {
		return -1, "", fmt.Errorf("%s is a symbolic link of user %d: it is not followed", name, stat.Uid)
	}
	var system unix.Statfs_t
	if err := unix.Fstatfs(fd, &system); err == nil && system.Type == unix.PROC_SUPER_MAGIC {
		fd, err := openAt(at, name, unix.O_PATH) // the link is no path: it leads to what is open
		return fd, "", err
	}
	text := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", text)
	if err != nil {
		return -1, "", err
	}
	return -1, string(text[:n]), nil // never empty
}

// openFile opens a file in the directory, to write or only to read what another
// process writes.
func (d *Dir) openFile(name string, flag int, read bool) (*os.File, error) {
	// Opening a device may do something, and opening a FIFO waits for its writer.
	var stat unix.Stat_t
	err := unix.Fstatat(int(d.dir.Fd()), name, &stat, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil {
		err = proper(&stat)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, d.pathError("open", name, err)
	}
	fd, err := openAt(int(d.dir.Fd()), name, flag|unix.O_NOFOLLOW|unix.O_NONBLOCK)
	if err != nil {
		return nil, d.pathError("open", name, err)
	}
	f := os.NewFile(uintptr(fd), filepath.Join(d.path, name))
	if err := d.check(f, read); err != nil {
		f.Close()
		return nil, d.pathError("open", name, err)
	}
	return f, nil
}

// check checks an open file, and closes it to others.
func (d *Dir) check(f *os.File, read bool) error {
	var stat, parent unix.Stat_t
	if err := errors.Join(unix.Fstat(int(f.Fd()), &stat), unix.Fstat(int(d.dir.Fd()), &parent)); err != nil {
		return err
	}
	if err := proper(&stat); err != nil {
		return err
	}
	switch {
	case !ours(&stat) && (!read || stat.Uid != parent.Uid):
		return fmt.Errorf("it belongs to user %d: sockdog uses no file of another's", stat.Uid)
	case read || stat.Mode&0o7777 == 0o600:
		return nil
	}
	if err := unix.Fchmod(int(f.Fd()), 0o600); err != nil && stat.Mode&0o022 != 0 {
		return fmt.Errorf("others may write to it: %w", err)
	}
	return nil
}

// proper says what is wrong with a file, whosever it is.
func proper(stat *unix.Stat_t) error {
	switch {
	case stat.Mode&unix.S_IFMT == unix.S_IFLNK:
		return errors.New("it is a symbolic link: sockdog follows none in its state directory")
	case stat.Mode&unix.S_IFMT != unix.S_IFREG:
		return errors.New("it is not a regular file")
	case stat.Nlink > 1:
		return fmt.Errorf("it has %d names: sockdog uses no file that stands elsewhere, too", stat.Nlink)
	default:
		return nil
	}
}

// ours reports whether only root and this process's user can have made a file.
func ours(stat *unix.Stat_t) bool {
	return stat.Uid == 0 || int(stat.Uid) == os.Geteuid()
}

// trusted says why the directory is not to be used: whoever may write to it can
// put what he likes in the place of any file. In a sticky one he can at least
// not remove ours.
func trusted(dir *os.File, read bool) error {
	var stat unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &stat); err != nil {
		return &os.PathError{Op: "stat", Path: dir.Name(), Err: err}
	}
	mine := int(stat.Uid) == os.Geteuid()
	cure := fmt.Sprintf("name one that is sockdog's alone, such as %s, which it makes", filepath.Join(dir.Name(), "sockdog"))
	switch {
	case !ours(&stat) && !read:
		return fmt.Errorf("directory %s belongs to user %d: %s", dir.Name(), stat.Uid, cure)
	case stat.Mode&0o022 != 0 && (stat.Mode&unix.S_ISVTX == 0 || !mine && !read):
		mode := fs.ModeDir | fs.FileMode(stat.Mode&0o777)
		if stat.Mode&unix.S_ISVTX != 0 {
			mode |= fs.ModeSticky
		}
		return fmt.Errorf("others may write to directory %s (%v): %s", dir.Name(), mode, cure)
	default:
		return nil
	}
}

func openAt(at int, name string, flag int) (int, error) {
	for {
		fd, err := unix.Openat(at, name, flag|unix.O_CLOEXEC, 0o600)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// pathError names the file in what a system call says.
func (d *Dir) pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: filepath.Join(d.path, name), Err: err}
}
