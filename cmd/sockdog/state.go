package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/sockdog/sockdog/internal/daemon"
	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/journal"
	"github.com/sockdog/sockdog/internal/seen"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/sockdiag"
)

// state is what is kept on disk.
type state struct {
	lock     *os.File
	journal  *journal.Journal
	store    *seen.Store
	restored engine.Restored
}

// openState opens what can be used of a state directory. A part that cannot be
// is left out, and said; an error means that nothing can be written, and what
// could be read is there all the same.
func openState(dir string, h *host, log *slog.Logger) (*state, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return &state{}, err
	}
	lock, err := lockStateDir(dir)
	if err != nil {
		restored, _ := readState(dir, h) // there may be none; what matters is said
		return &state{restored: restored}, err
	}
	s := state{lock: lock}
	j, interrupted, journalErr := journal.Open(dir, time.Now())
	if journalErr == nil {
		s.journal = j
		for i := range interrupted {
			r := &interrupted[i]
			log.LogAttrs(context.Background(), slog.LevelWarn, r.Action+" "+string(r.Result), r.Attrs()...)
		}
	}
	var storeErr error
	s.store, s.restored, storeErr = openStore(dir, h)
	switch {
	case journalErr != nil && storeErr != nil:
		return &s, fmt.Errorf("%w; %w", journalErr, storeErr)
	case journalErr != nil:
		log.Error("the journal cannot be used: what is done is only logged", "error", journalErr.Error())
	case storeErr != nil:
		log.Error("the first-seen store cannot be used: a restart will forget", "error", storeErr.Error())
	}
	return &s, nil
}

// openStore opens the first-seen store of this boot and network namespace. What
// can be read of it comes back beside an error, too.
func openStore(dir string, h *host) (*seen.Store, engine.Restored, error) {
	boot, netns, err := whereabouts()
	if err != nil {
		return nil, engine.Restored{}, err
	}
	store, loaded, err := seen.Open(dir, boot, netns, h.now())
	return store, engine.Restored{Memories: loaded.Memories, Spent: loaded.Spent, Groups: loaded.Groups}, err
}

// readState reads what a sockdog keeps that may be running.
func readState(dir string, h *host) (engine.Restored, error) {
	boot, netns, err := whereabouts()
	if err != nil {
		return engine.Restored{}, err
	}
	loaded, err := seen.Read(dir, boot, netns, h.now())
	if _, missing := os.Stat(dir); missing == nil && errors.Is(err, fs.ErrNotExist) {
		err = nil // nothing was kept there yet
	}
	return engine.Restored{Memories: loaded.Memories, Spent: loaded.Spent, Groups: loaded.Groups}, err
}

// memoriesIn are what a sockdog that may be running knows of the sockets, by
// cookie; none where no directory is named.
func memoriesIn(dir string, h *host) (map[uint64]*sock.Memory, error) {
	if dir == "" {
		return nil, nil
	}
	kept, err := readState(dir, h)
	if err != nil {
		return nil, err
	}
	memories := make(map[uint64]*sock.Memory, len(kept.Memories))
	for i := range kept.Memories {
		memories[kept.Memories[i].Cookie] = &kept.Memories[i]
	}
	return memories, nil
}

// whereabouts tell this boot and network namespace from every other. Kernels
// before 5.14 have no SO_NETNS_COOKIE: there, nothing can be kept.
func whereabouts() (seen.BootID, uint64, error) {
	boot, err := seen.ReadBootID()
	if err != nil {
		return boot, 0, err
	}
	netns, err := sockdiag.NetnsCookie()
	if err != nil {
		return boot, 0, fmt.Errorf("first-seen store: %w", err)
	}
	return boot, netns, nil
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
		if s.lock != nil {
			s.lock.Close() // last: what it guards is closed
		}
	}()
	select {
	case <-closed:
	case <-time.After(stateEnd):
	}
}
