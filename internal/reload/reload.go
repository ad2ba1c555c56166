// Package reload reads the rules file, and again whenever it may have changed:
// written in place, replaced by an editor, or swapped behind symbolic links as
// a ConfigMap is. What the bytes mean is not its business.
package reload

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"
)

const (
	// A file is read once its directory has been quiet for settle, so that one
	// still being written is rarely read half. A directory that is never quiet
	// puts that off for no longer than patience.
	settle   = 200 * time.Millisecond
	patience = time.Second

	// Behind the watch stands a slow poll, for what inotify does not report:
	// changes made on another host of a network file system, a parent directory
	// renamed, a file system mounted over. Where the kernel refuses to watch, a
	// quick one stands in its place.
	slowPoll  = 30 * time.Second
	quickPoll = time.Second
)

// Watcher reads one file over and over.
type Watcher struct {
	path  string
	warn  func(error)
	files chan File
	poke  chan struct{}
}

// New returns a Watcher of the file at path. Its Run calls warn when the file
// can only be polled, because the kernel refuses to watch.
func New(path string, warn func(error)) *Watcher {
	return &Watcher{
		path:  path,
		warn:  warn,
		files: make(chan File),
		poke:  make(chan struct{}, 1),
	}
}

// Files delivers what Run read: the file as it stands at the start, then each
// change of its bytes, or of the error that stands in their place. A reading
// nobody took yet gives way to a newer one.
func (w *Watcher) Files() <-chan File { return w.files }

// Poke has the file read at once and delivered even if it is unchanged: who asks
// for a reload waits to hear that it was done. It does not block.
func (w *Watcher) Poke() {
	select {
	case w.poke <- struct{}{}:
	default: // one is waiting already, and will find what is there now
	}
}

// Run reads and delivers until ctx is done, and leaves nothing open behind.
func (w *Watcher) Run(ctx context.Context) {
	var (
		watch  watch
		warned bool
		next   File
		out    chan File // w.files while next waits to be taken
		last   File      // the newest reading
		dirty  time.Time // the first event since then; zero: none
	)
	defer watch.close()
	timer := time.NewTimer(slowPoll)
	defer timer.Stop()

	scan := func(deliver bool) {
		dirty = time.Time{}
		timer.Reset(slowPoll)
		err := watch.arm(w.path) // before reading, so that no change falls between
		if err != nil {
			timer.Reset(quickPoll)
		}
		// A directory that went away under arm is no refusal.
		refused := err != nil && !errors.Is(err, fs.ErrNotExist)
		if refused && !warned {
			w.warn(fmt.Errorf("the rules file is read every %v, because it cannot be watched: %w", quickPoll, err))
		}
		warned = refused

		if file := read(w.path); deliver || !file.same(last) {
			next, out, last = file, w.files, file
		}
	}

	scan(true)
	for {
		select {
		case <-ctx.Done():
			return
		case out <- next:
			next, out = File{}, nil
		case <-w.poke:
			scan(true)
		case <-watch.changed:
			now := time.Now()
			if dirty.IsZero() {
				dirty = now
			}
			timer.Reset(min(settle, dirty.Add(patience).Sub(now)))
		case <-timer.C:
			scan(false)
		}
	}
}
