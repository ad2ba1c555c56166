package capture

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Partial is what the name of a file ends with until it is whole.
const Partial = ".partial"

// File is a file that gets its name once it is whole. Until then, and if the process is killed,
// what was written is at that name with .partial after it.
type File struct {
	*os.File
	path  string
	force bool
	info  os.FileInfo // once it is closed
}

// Create begins a file that only its owner may read. Without force it fails where there is one,
// or another recording under way.
func Create(path string, force bool) (*File, error) {
	begun := path + Partial
	if force {
		if err := os.Remove(begun); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	} else if _, err := os.Lstat(path); err == nil {
		return nil, fmt.Errorf("%s is there already: name another file, or add --force", path)
	}
	f, err := os.OpenFile(begun, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%s is there: another recording is under way, or one was killed, which can be read up to its last whole scan; rename it, or add --force", begun)
	}
	if err != nil {
		return nil, err
	}
	return &File{File: f, path: path, force: force}, nil
}

// Cut drops what was written beyond a size: the part of a scan.
func (f *File) Cut(size int64) error {
	if err := f.Truncate(size); err != nil {
		return err
	}
	_, err := f.Seek(size, 0)
	return err
}

// Keep gives the file its name, on disk, and closes it.
func (f *File) Keep() error {
	var err error
	f.info, err = f.Stat()
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := f.rename(); err != nil {
		return fmt.Errorf("%s has not become %s: %w", f.Name(), f.path, err)
	}
	dir, err := os.Open(filepath.Dir(f.path))
	if err != nil {
		return nil // it has its name, if not one that outlasts a power cut
	}
	defer dir.Close()
	_ = dir.Sync() // nor here: not every file system can
	return nil
}

// rename takes the place of another file only with force. What has come under the name of the
// beginning is not taken for it.
func (f *File) rename() error {
	if named, err := os.Lstat(f.Name()); err != nil || !os.SameFile(named, f.info) {
		return errors.New("it was removed, or another recording was begun with --force")
	}
	if f.force {
		return os.Rename(f.Name(), f.path)
	}
	err := unix.Renameat2(unix.AT_FDCWD, f.Name(), unix.AT_FDCWD, f.path, unix.RENAME_NOREPLACE)
	switch {
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("%s is there now, too", f.path)
	case errors.Is(err, unix.EINVAL): // a file system that cannot say so at once
		if _, err := os.Lstat(f.path); err == nil {
			return fmt.Errorf("%s is there now, too", f.path)
		}
		return os.Rename(f.Name(), f.path)
	case err != nil:
		return &os.LinkError{Op: "rename", Old: f.Name(), New: f.path, Err: err}
	}
	return nil
}

// Drop removes a file that holds nothing.
func (f *File) Drop() { _ = errors.Join(f.Close(), os.Remove(f.Name())) }
