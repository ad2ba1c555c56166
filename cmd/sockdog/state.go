package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/sockdog/sockdog/internal/daemon"
	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/journal"
	"github.com/sockdog/sockdog/internal/seen"
	"github.com/sockdog/sockdog/internal/source/sockdiag"
	"github.com/sockdog/sockdog/internal/statedir"
	"github.com/sockdog/sockdog/internal/status"
)

// state is what is kept on disk.
type state struct {
	dir      *statedir.Dir
	journal  *journal.Journal
	store    *seen.Store
	restored engine.Restored
	problem  *status.Problem // nil: all of it can be used
}

// openState opens what can be used of a state directory. What cannot be is left
// out, and said; what can be read is there all the same.
func openState(path string, h *host, log *slog.Logger) *state {
	s := &state{}
	var err error
	if s.dir, err = statedir.Open(path); err != nil {
		s.missing(log, path, "the state directory cannot be used: sockdog goes on, and forgets everything when it ends", err)
		if s.dir != nil {
			s.restored, _ = readIn(s.dir, h) // there may be none; what matters is said
		}
		return s
	}
	j, left, journalErr := journal.Open(s.dir, time.Now())
	if journalErr == nil {
		s.journal = j
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
		s.missing(log, path, "the state directory cannot be used: sockdog goes on, and forgets everything when it ends", fmt.Errorf("%w; %w", journalErr, storeErr))
	case journalErr != nil:
		s.missing(log, path, "the journal cannot be used: what is done is only logged", journalErr)
	case storeErr != nil:
		s.missing(log, path, "the first-seen store cannot be used: a restart will forget", storeErr)
	}
	return s
}

// missing says what of the state cannot be used.
func (s *state) missing(log *slog.Logger, path, what string, err error) {
	log.Error(what, "dir", path, "error", err.Error())
	s.problem = &status.Problem{Kind: "state", Text: what + ": " + err.Error(), Since: time.Now()}
}

// openStore opens the first-seen store of this boot and network namespace. What
// can be read of it is used also where it cannot be written to.
func (s *state) openStore(h *host, log *slog.Logger) error {
	origin, err := originOf()
	if err != nil {
		return err
	}
	store, loaded, err := seen.Open(s.dir, origin, h.now())
	if err != nil {
		loaded, _ = seen.Read(s.dir, origin, h.now())
	}
	if len(loaded.SetAside) > 0 {
		log.Warn("state of a newer sockdog set aside; ages and limits count anew", "dir", s.dir.Path(), "files", loaded.SetAside)
	}
	s.store, s.restored = store, restoredFrom(loaded)
	if loaded.Damaged > 0 {
		log.Warn("the first-seen store was damaged: some ages and limits are lost", "dir", s.dir.Path(), "lost", loaded.Damaged, "sockets_known", len(loaded.Memories))
	}
	return err
}

func restoredFrom(l seen.Loaded) engine.Restored {
	return engine.Restored{Memories: l.Memories, Spent: l.Spent, Groups: l.Groups}
}

// readState reads what a sockdog keeps that may be running.
func readState(path string, h *host) (engine.Restored, error) {
	dir, err := statedir.OpenToRead(path)
	if errors.Is(err, fs.ErrPermission) {
		err = fmt.Errorf("%w: it is for root, and for the user that sockdog runs as", err)
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

func readIn(dir *statedir.Dir, h *host) (engine.Restored, error) {
	origin, err := originOf()
	if err != nil {
		return engine.Restored{}, err
	}
	loaded, err := seen.Read(dir, origin, h.now())
	return restoredFrom(loaded), err
}

// originOf tells this boot and network namespace from every other. Kernels before
// 5.14 have no SO_NETNS_COOKIE: there, nothing can be kept.
func originOf() (seen.Origin, error) {
	boot, err := seen.ReadBootID()
	if err != nil {
		return seen.Origin{}, err
	}
	cookie, err := sockdiag.NetnsCookie()
	if err != nil {
		return seen.Origin{}, fmt.Errorf("first-seen store: %w", err)
	}
	return seen.Origin{Boot: boot, Netns: sockdiag.NetnsInode(), NetnsCookie: cookie}, nil
}

func (s *state) use(o *daemon.Options) {
	// A nil pointer in an interface would not be nil.
	if s.journal != nil {
		o.Journal = s.journal
	}
	if s.store != nil {
		o.Store = s.store
	}
	o.Restored = s.restored
	if s.problem != nil {
		o.Problems = o.Problems.With(*s.problem)
	}
}

// stateEnd is how long a disk may take to close what is on it: whoever told the
// daemon to stop does not wait for one that hangs.
const stateEnd = 50 * time.Millisecond

func (s *state) close() {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		if s.journal != nil {
			s.journal.Close()
		}
		if s.store != nil {
			s.store.Close()
		}
		if s.dir != nil {
			s.dir.Close() // last: what its lock guards is closed
		}
	}()
	select {
	case <-closed:
	case <-time.After(stateEnd):
	}
}
