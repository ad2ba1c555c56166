package reload

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

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

	var refused error
	follow(path, func(name string, kind uint32, _ *unix.Stat_t, last bool) bool {
		if kind == unix.S_IFDIR && !last {
			return true
		}
		if refused = w.add(filepath.Dir(name)); refused == nil && kind != unix.S_IFLNK {
			refused = w.add(name)
			if errors.Is(refused, fs.ErrNotExist) || errors.Is(refused, fs.ErrPermission) {
				refused = nil
			}
		}
		return refused == nil
	})
	return refused
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
	switch {
	case errors.Is(err, unix.ENOSPC):
		return fmt.Errorf("watch %s: %w; raise the sysctl fs.inotify.max_user_watches", name, err)
	case err != nil:
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
