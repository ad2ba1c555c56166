package daemon

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/sock"
)

// diskHealth is how the state directory does: how long a write takes, and what fails.
type diskHealth struct {
	log   *logQueue
	now   func() sock.Instant
	stall stall // of the write under way

	mu       sync.Mutex
	failed   map[string]trouble // by what failed
	slowAt   sock.Instant       // when a write that took long ended last
	saidSlow bool               // the log says that the disk is slow
}

// trouble is how it stands with something that could not be written.
type trouble struct {
	why     string // it cannot be written; empty: it can
	told    bool
	at      sock.Instant // when that was said last
	checked bool         // a check has found it
}

const (
	// slowAfter is how long a write may take before that is a problem, and
	// slowFor how long it stays one.
	slowAfter = time.Second
	slowFor   = time.Minute
	// troubleEvery is how often trouble is told of at most: a disk that is full for a
	// large write has room for a small one, over and over.
	troubleEvery = 10 * time.Minute
)

// What is written to.
const (
	theJournal = "the journal"
	theStore   = "the first-seen store"
)

// check makes a write of nothing. That this works says nothing of a disk that is full,
// so it ends no trouble but what an earlier check has found.
func (h *diskHealth) check(what string, write func() error) {
	err := h.timed(write)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil || h.failed[what].checked {
		h.tell(what, err, true)
	}
}

// write makes one write, and reports whether it succeeded.
func (h *diskHealth) write(what string, write func() error) bool {
	err := h.timed(write)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tell(what, err, false)
	return err == nil
}

// timed makes one write, and says so while it takes long.
func (h *diskHealth) timed(write func() error) error {
	began := h.now()
	h.mu.Lock()
	if h.saidSlow && began.Sub(h.slowAt) >= slowFor {
		h.saidSlow = false
		h.log.say(slog.LevelInfo, "state directory answers in time again")
	}
	h.mu.Unlock()
	slow := time.AfterFunc(slowAfter, h.saySlow)
	h.stall.begin(began, engine.RecordTimeout, func() {
		h.log.say(slog.LevelError, "state directory does not answer; kills go on without a record", slog.Duration("waited", engine.RecordTimeout))
	})
	err := write()
	slow.Stop()
	took, hung := h.stall.end(h.now())
	if hung {
		h.log.say(slog.LevelWarn, "state directory answers again; what was done is written now", waited(took))
	}
	if took >= slowAfter {
		h.mu.Lock()
		h.slowAt = h.now()
		h.mu.Unlock()
	}
	return err
}

// saySlow says that a write takes long, once until writes have been fast for a
// while.
func (h *diskHealth) saySlow() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.saidSlow {
		h.saidSlow = true
		h.log.say(slog.LevelWarn, "state directory is slow; kills wait for the record of their intent", slog.Duration("waited", slowAfter))
	}
}

// stalled returns for how long the write under way has been.
func (h *diskHealth) stalled() time.Duration { return h.stall.waited(h.now()) }

// slow says how slow the disk is, or "".
func (h *diskHealth) slow() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	stalled := h.stalled()
	switch {
	case stalled >= engine.RecordTimeout:
		return fmt.Sprintf("the state directory has not answered for %v: kills go on, and are recorded when it answers", stalled.Round(time.Second))
	case stalled >= slowAfter, h.slowAt != 0 && h.now().Sub(h.slowAt) < slowFor:
		return fmt.Sprintf("the state directory is slow: within the last minute a write took over %v, and kills wait for it", slowAfter)
	default:
		return ""
	}
}

// tell says once that something cannot be written, and once that it can again. Its
// caller holds mu.
func (h *diskHealth) tell(what string, err error, checked bool) {
	t := h.failed[what]
	if checked {
		t.checked = err != nil
	}
	if t.why = ""; err != nil {
		t.why = err.Error()
	}
	switch {
	case err != nil && !t.told && (t.at == 0 || h.now().Sub(t.at) >= troubleEvery):
		h.log.say(slog.LevelError, what+" cannot be written; sockdog goes on without it", slog.String("error", t.why))
		t.told, t.at = true, h.now()
	case err == nil && t.told:
		h.log.say(slog.LevelInfo, what+" can be written again")
		t.told = false
	}
	h.failed[what] = t
}

// why says why something could not be written, if it still cannot.
func (h *diskHealth) why(what string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.failed[what].why
}
