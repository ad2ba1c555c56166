// Package pause keeps whether all acting is paused, and why: in a file of the state
// directory, which outlives the daemon and which people can put there without one; and
// in memory, where there is no such directory. What a pause means is the engine's.
package pause

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/sockdog/sockdog/internal/statedir"
	"github.com/sockdog/sockdog/internal/status"
)

// pollEvery is how often it is seen whether the file stands there, and how long a busy
// daemon is waited for. A look costs some ten microseconds; it misses nothing, on any file
// system, and needs nothing to be watched.
const pollEvery = time.Second

// Store knows whether all acting is paused. It is safe for concurrent use.
type Store struct {
	dir     *statedir.Dir // nil: there is none
	wall    func() time.Time
	log     *slog.Logger
	changes chan *status.Pause
	next    *time.Timer // when there may be something to tell

	mu     sync.Mutex
	file   *status.Pause // as the file says; nil: it does not pause
	memory *status.Pause // that the directory did not take; nil: none
	asked  *status.Pause // that somebody asked this run for last; nil: none
	told   *status.Pause // what was taken from changes last
	over   *status.Pause // the last one whose time was over, unless another stands; nil: none
	failed string        // why the file cannot be told of, as was logged
}

// New returns a Store of what the file in a directory says; nil: there is no directory.
func New(dir *statedir.Dir, log *slog.Logger) *Store {
	s := &Store{dir: dir, wall: time.Now, log: log, changes: make(chan *status.Pause), next: time.NewTimer(pollEvery)}
	s.read()
	s.told = s.present()
	return s
}

// Present is the pause of now; nil: there is none.
func (s *Store) Present() *status.Pause {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.present()
}

// present is that of the file, before the one that is only in memory.
func (s *Store) present() *status.Pause {
	if s.file != nil {
		return s.file
	}
	if s.memory != nil && s.memory.Over(time.Now()) {
		s.over, s.memory = s.memory, nil
	}
	return s.memory
}

// Changes tells of each pause that takes the place of the present one, with nil for none, or with
// one whose time is over.
func (s *Store) Changes() <-chan *status.Pause { return s.changes }

// Run sees to the file, and that the daemon is told of each change, until ctx is done.
func (s *Store) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.next.C:
		}
		s.mu.Lock()
		s.read()
		within, cancel := context.WithTimeout(ctx, pollEvery)
		_ = s.tell(within) // else the next time
		cancel()
		s.mu.Unlock()
	}
}

// read reads the file. What stood there stays, where that cannot be told: a directory
// that is away for a moment is no word to go on.
func (s *Store) read() {
	if s.dir == nil {
		return
	}
	p, err := Read(s.dir)
	if err != nil {
		if s.failed != err.Error() {
			s.failed = err.Error()
			s.log.Error("the file that pauses sockdog cannot be used", "file", FileName, "error", s.failed)
		}
		return
	}
	if p != nil && s.isOver(p) {
		if s.told == nil && !same(p, s.over) {
			s.log.Warn("acting goes on: the time of a pause is over", "file", FileName, "reason", p.Words())
		}
		s.over, p = p, nil
		_ = s.dir.Remove(FileName) // where it cannot be, it is over all the same
	}
	s.failed, s.file = "", p
}

// isOver reports whether the time of a pause is over, by its date. One that somebody has asked
// this run for lasts as long as was asked, also where the wall clock is set forward meanwhile.
func (s *Store) isOver(p *status.Pause) bool {
	a := s.asked
	waits := a != nil && a.Reason == p.Reason && a.By == p.By && a.Until.Equal(p.Until) && !a.Over(time.Now())
	return p.Over(s.wall()) && !waits
}

// tell hands over what has changed.
func (s *Store) tell(ctx context.Context) error {
	now := s.present()
	defer func() { s.next.Reset(s.wait(now)) }()
	if now != nil {
		s.over = nil
	}
	if same(now, s.told) {
		return nil
	}
	change := now
	if now == nil {
		change = s.over // why there is none
	}
	select {
	case s.changes <- change:
		s.told = now
		return nil
	case <-ctx.Done():
		return errors.New("the daemon is busy, and does so in a moment")
	}
}

// wait is for how long nothing changes by itself: without a file, nothing is looked for.
func (s *Store) wait(now *status.Pause) time.Duration {
	switch {
	case s.dir != nil, !same(now, s.told):
		return pollEvery
	case now != nil && !now.Until.IsZero():
		return time.Until(now.Until)
	default:
		return math.MaxInt64
	}
}

func same(a, b *status.Pause) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Reason == b.Reason && a.By == b.By && a.File == b.File && a.Since.Equal(b.Since) && a.Until.Equal(b.Until)
}

// Pause has all acting paused, and returns once that is so. Where the directory does not
// take it, the pause is in memory alone, and unkept says why.
func (s *Store) Pause(ctx context.Context, p status.Pause) (unkept, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.Reason = Reason(p.Reason)
	s.memory, s.asked = &p, &p
	if s.dir == nil {
		unkept = errors.New("there is no state directory")
	} else if unkept = Write(s.dir, &p); unkept == nil {
		if s.read(); s.file != nil {
			s.memory = nil
		} // else the directory has gone meanwhile
	}
	return unkept, s.tell(ctx)
}

// Resume ends the pause, and returns once that is so. An error says why it does not end.
func (s *Store) Resume(ctx context.Context) (was *status.Pause, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.read()
	was = s.present()
	s.memory = nil
	if s.dir != nil && (s.file != nil || s.failed != "") { // where it cannot be told, one may be there
		if _, err := Remove(s.dir); err != nil && s.file != nil {
			return was, fmt.Errorf("it is paused by a file that cannot be removed: %w", err)
		}
		s.read()
	}
	return was, s.tell(ctx)
}
