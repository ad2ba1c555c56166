// Package pause keeps whether all acting is paused, and why: in a file of the state
// directory, which outlives the daemon and which people can put there without one; and
// in memory, where there is no such directory. What a pause means is the engine's.
package pause

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/sockdog/sockdog/internal/statedir"
	"github.com/sockdog/sockdog/internal/status"
)

// pollEvery is how often it is seen whether the file stands there. That costs some ten
// microseconds; it misses nothing, on any file system, and needs nothing to be watched.
const pollEvery = time.Second

// Keeper knows whether all acting is paused. It is safe for concurrent use.
type Keeper struct {
	dir     *statedir.Dir // nil: there is none
	log     *slog.Logger
	changes chan *status.Pause

	mu     sync.Mutex
	file   *status.Pause // as the file says; nil: it does not pause
	memory *status.Pause // that the directory did not take; nil: none
	told   *status.Pause // what was taken from changes last
	failed string        // why the file cannot be told of, as was logged
}

// New returns a Keeper of what the file in a directory says; nil: there is no directory.
func New(dir *statedir.Dir, log *slog.Logger) *Keeper {
	k := &Keeper{dir: dir, log: log, changes: make(chan *status.Pause)}
	k.read()
	k.told = k.present()
	return k
}

// Present is the pause of now; nil: there is none.
func (k *Keeper) Present() *status.Pause {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.present()
}

// present is that of the file, before the one that is only in memory.
func (k *Keeper) present() *status.Pause {
	if k.file != nil {
		return k.file
	}
	if k.memory != nil && k.memory.Over(time.Now()) {
		k.memory = nil
	}
	return k.memory
}

// Changes tells of each pause that takes the place of the present one, with nil for none.
func (k *Keeper) Changes() <-chan *status.Pause { return k.changes }

// Run sees to the file until ctx is done.
func (k *Keeper) Run(ctx context.Context) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		k.mu.Lock()
		k.read()
		within, cancel := context.WithTimeout(ctx, pollEvery)
		_ = k.tell(within) // else the next time
		cancel()
		k.mu.Unlock()
	}
}

// read reads the file. What stood there stays, where that cannot be told: a directory
// that is away for a moment is no word to go on.
func (k *Keeper) read() {
	if k.dir == nil {
		return
	}
	p, err := Read(k.dir)
	if err != nil {
		if k.failed != err.Error() {
			k.failed = err.Error()
			k.log.Error("the file that pauses sockdog cannot be used", "file", FileName, "error", k.failed)
		}
		return
	}
	if p != nil && p.Over(time.Now()) {
		p, _ = nil, k.dir.Remove(FileName) // where it cannot be, it is over all the same
	}
	k.failed, k.file = "", p
}

// tell hands over what has changed.
func (k *Keeper) tell(ctx context.Context) error {
	now := k.present()
	if same(now, k.told) {
		return nil
	}
	select {
	case k.changes <- now:
		k.told = now
		return nil
	case <-ctx.Done():
		return errors.New("the daemon is busy, and does so in a moment")
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
func (k *Keeper) Pause(ctx context.Context, p status.Pause) (unkept, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p.Reason = Reason(p.Reason)
	k.memory = &p
	if k.dir == nil {
		unkept = errors.New("there is no state directory")
	} else if unkept = Write(k.dir, &p); unkept == nil {
		if k.read(); k.file != nil {
			k.memory = nil
		} // else the directory has gone meanwhile
	}
	return unkept, k.tell(ctx)
}

// Resume ends the pause, and returns once that is so. An error says why it does not end.
func (k *Keeper) Resume(ctx context.Context) (was *status.Pause, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.read()
	was = k.present()
	k.memory = nil
	if k.dir != nil && (k.file != nil || k.failed != "") { // where it cannot be told, one may be there
		if _, err := Remove(k.dir); err != nil && k.file != nil {
			return was, fmt.Errorf("it is paused by a file that cannot be removed: %w", err)
		}
		k.read()
	}
	return was, k.tell(ctx)
}
