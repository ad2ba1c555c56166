// Package state opens what the state directory keeps, the journal and the first-seen
// store: for the daemon to write, and for commands to read beside it.
package state

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/host"
	"github.com/sockdog/sockdog/internal/journal"
	"github.com/sockdog/sockdog/internal/seen"
	"github.com/sockdog/sockdog/internal/statedir"
	"github.com/sockdog/sockdog/internal/status"
)

// State is what is kept on disk.
type State struct {
	Journal  *journal.Journal // nil: it cannot be used
	Store    *seen.Store      // nil: it cannot be used
	Restored engine.Restored
	Problem  *status.Problem // nil: all of it can be used
	Dir      *statedir.Dir   // to read at least; nil: it cannot be opened
}

// Open opens what can be used of a state directory. What cannot be is left out,
// and logged; what can be read is there all the same.
func Open(path string, h *host.Host, log *slog.Logger) *State {
	s := &State{}
	var err error
	if s.Dir, err = statedir.Open(path); err != nil {
		s.missing(log, path, "the state directory cannot be used; everything is forgotten at the end", err)
		if s.Dir != nil {
			s.Restored, _ = readIn(s.Dir, h) // there may be none; what matters is said
		}
		return s
	}
	j, left, journalErr := journal.Open(s.Dir, time.Now())
	if journalErr == nil {
		s.Journal = j
		for i := range left.Interrupted {
			r := &left.Interrupted[i]
			log.LogAttrs(context.Background(), slog.LevelWarn, r.Words(), r.Attrs()...)
		}
		if left.Newer > 0 {
			log.Warn("a newer sockdog left intents open; their outcome is not known", "dir", path, "intents", left.Newer)
		}
	}
	storeErr := s.openStore(h, log)
	switch {
	case journalErr != nil && storeErr != nil:
		s.missing(log, path, "the state directory cannot be used; everything is forgotten at the end", fmt.Errorf("%w; %w", journalErr, storeErr))
	case journalErr != nil:
		s.missing(log, path, "the journal cannot be used; actions are only logged", journalErr)
	case storeErr != nil:
		s.missing(log, path, "the first-seen store cannot be used; a restart forgets ages and limits", storeErr)
	}
	return s
}

// missing says what of the state cannot be used.
func (s *State) missing(log *slog.Logger, path, what string, err error) {
	attrs := []any{"dir", path, "error", err.Error()}
	s.Problem = &status.Problem{Kind: "state", Text: what + ": " + err.Error(), Since: time.Now()}
	if errors.Is(err, fs.ErrPermission) {
		s.Problem.Cure = fmt.Sprintf("sockdog runs as user %[1]d: install -d -o %[1]d -m 700 %[2]s gives it to that user (for a container the directory of the host that is mounted there)", os.Geteuid(), path)
		attrs = append(attrs, "cure", s.Problem.Cure)
	}
	log.Error(what, attrs...)
}

// openStore opens the first-seen store of this boot and network namespace. What
// can be read of it is used also where it cannot be written to.
func (s *State) openStore(h *host.Host, log *slog.Logger) error {
	origin, err := h.Origin()
	if err != nil {
		return err
	}
	store, loaded, err := seen.Open(s.Dir, origin, h.Now())
	if err != nil {
		loaded, _ = seen.Read(s.Dir, origin, h.Now())
	}
	if len(loaded.SetAside) > 0 {
		log.Warn("state of another version of sockdog set aside; ages and limits count anew", "dir", s.Dir.Path(), "files", loaded.SetAside)
	}
	s.Store, s.Restored = store, restoredFrom(loaded)
	if loaded.Damaged > 0 {
		log.Warn("the first-seen store was damaged; some ages and limits are lost", "dir", s.Dir.Path(), "lost", loaded.Damaged, "sockets_known", len(loaded.Memories))
	}
	return err
}

func restoredFrom(l seen.Loaded) engine.Restored {
	return engine.Restored{Memories: l.Memories, Spent: l.Spent, Groups: l.Groups, Stops: l.Stops}
}

// Read reads what a sockdog keeps that may be running.
func Read(path string, h *host.Host) (engine.Restored, error) {
	dir, err := statedir.OpenToRead(path)
	if errors.Is(err, fs.ErrPermission) {
		err = fmt.Errorf("%w: only root and the user that sockdog runs as may read it", err)
	}
	if err != nil {
		return engine.Restored{}, err
	}
	defer dir.Close()
	restored, err := readIn(dir, h)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // nothing was kept there yet
	}
	return restored, err
}

func readIn(dir *statedir.Dir, h *host.Host) (engine.Restored, error) {
	origin, err := h.Origin()
	if err != nil {
		return engine.Restored{}, fmt.Errorf("first-seen store: %w", err)
	}
	loaded, err := seen.Read(dir, origin, h.Now())
	return restoredFrom(loaded), err
}

// closeWithin is how long a disk may take to close what is on it: whoever told the
// daemon to stop does not wait for one that hangs.
const closeWithin = 50 * time.Millisecond

// Close closes it all, as far as the disk lets it in time.
func (s *State) Close() {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		if s.Journal != nil {
			s.Journal.Close()
		}
		if s.Store != nil {
			s.Store.Close()
		}
		if s.Dir != nil {
			s.Dir.Close() // last: what its lock guards is closed
		}
	}()
	select {
	case <-closed:
	case <-time.After(closeWithin):
	}
}
