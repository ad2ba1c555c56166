package reload

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

// maxLinks is the kernel's MAXSYMLINKS: no path leads further than that.
const maxLinks = 40

// watch is an inotify instance on what decides where a path leads: the directory
// of the file, the directory of each symbolic link on the way, and, where the way
// is broken, the last directory there is. The file alone would not do: the first
// rename over it ends that watch. But it is watched beside its directory, which
// hears nothing of a write to a file that is a mount of its own (docker run -v
// FILE:FILE): fsnotify_parent tells the directory at the other end of the mount.
type watch struct {
	inotify *fsnotify.Watcher
	changed chan struct{} // something happened since this was last received
	done    chan struct{} // pump has ended
}

// arm watches where path leads to now, in place of where it led to before.
func (w *watch) arm(path string) error {
	if w.inotify == nil {
		if err := w.open(); err != nil {
			return err
		}
	}
	for _, old := range w.inotify.WatchList() {
		w.inotify.Remove(old) // fails where it is gone already
	}

	dir, rest := ".", strings.Split(path, "/")
	if filepath.IsAbs(path) {
		dir = "/"
	}
	watched := make(map[string]bool)
	for links := 0; len(rest) > 0 && links <= maxLinks; {
		if rest[0] == "" || rest[0] == "." || rest[0] == ".." {
			dir, rest = filepath.Join(dir, rest[0]), rest[1:]
			continue
		}
		name := filepath.Join(dir, rest[0])
		if len(rest) > 1 && isDir(name) {
			dir, rest = name, rest[1:]
			continue
		}
		// A link, the file, or nothing: what counts is what is there once the
		// directory is watched.
		if !watched[dir] {
			if err := w.add(dir); err != nil {
				return err
			}
			watched[dir] = true
			continue
		}
		target, err := os.Readlink(name)
		if err != nil {
			if err := w.add(name); !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
				return err
			}
			return nil
		}
		links++
		rest = append(strings.Split(target, "/"), rest[1:]...)
		if filepath.IsAbs(target) {
			dir = "/"
		}
	}
	return nil
}

// isDir reports whether name is a directory, and not a link to one.
func isDir(name string) bool {
	info, err := os.Lstat(name)
	return err == nil && info.IsDir()
}

func (w *watch) open() error {
	inotify, err := fsnotify.NewWatcher()
	if errors.Is(err, unix.EMFILE) {
		return fmt.Errorf("%w; raise the sysctl fs.inotify.max_user_instances", err)
	}
	if err != nil {
		return err
	}
	w.inotify = inotify
	w.changed = make(chan struct{}, 1)
	w.done = make(chan struct{})
	go w.pump()
	return nil
}

func (w *watch) add(name string) error {
	err := w.inotify.Add(name)
	if errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("watch %s: %w; raise the sysctl fs.inotify.max_user_watches", name, err)
	}
	if err != nil {
		return fmt.Errorf("watch %s: %w", name, err)
	}
	return nil
}

// pump turns events, and errors, which mean that events were lost, into changed.
// It is a goroutine of its own because fsnotify can send an error while it holds
// the lock that Add, Remove and Close wait for.
func (w *watch) pump() {
	defer close(w.done)
	for {
		var open bool
		select {
		case _, open = <-w.inotify.Events:
		case _, open = <-w.inotify.Errors:
		}
		if !open {
			return // Close has closed both
		}
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}
}

func (w *watch) close() {
	if w.inotify != nil {
		w.inotify.Close()
		<-w.done
	}
}
