package daemon

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/journal"
	"github.com/sockdog/sockdog/internal/sock"
)

// logQueue writes to the log, whose reader may read no further, or be gone. That
// stops its goroutine and nothing else; what the queue has no room for is dropped,
// counted, and said once lines are taken again.
type logQueue struct {
	handler slog.Handler
	now     func() sock.Instant
	done    chan struct{}

	mu      sync.Mutex
	arrived *sync.Cond
	lines   []logLine
	lost    int // since a line was written last
	closed  bool
	writing sock.Instant // since when a line has been on its way; 0: none is
	err     error        // of the last line
}

// logLine is a line about an action, or else a note.
type logLine struct {
	at     time.Time
	record *journal.Record // nil: note
	note   engine.Note
}

// mostLines bounds what waits for the reader of the log: a few megabytes.
const mostLines = 4096

func newLogQueue(log *slog.Logger, now func() sock.Instant) *logQueue {
	q := &logQueue{handler: log.Handler(), now: now, done: make(chan struct{})}
	q.arrived = sync.NewCond(&q.mu)
	go q.run()
	return q
}

// say adds a note.
func (q *logQueue) say(level slog.Level, text string, attrs ...slog.Attr) {
	q.add(time.Now(), []engine.Note{{Level: level, Text: text, Attrs: attrs}}, nil)
}

// add has lines written, without waiting: one for each record, and notes. Nobody
// may change the records after.
func (q *logQueue) add(at time.Time, notes []engine.Note, records []journal.Record) {
	if len(notes)+len(records) == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range records {
		q.push(logLine{at: records[i].Time, record: &records[i]})
	}
	for _, n := range notes {
		q.push(logLine{at: at, note: n})
	}
	q.arrived.Signal()
}

func (q *logQueue) push(l logLine) {
	if len(q.lines) >= mostLines {
		q.lost++
		return
	}
	q.lines = append(q.lines, l)
}

// logEnd is how long the log has to take what is left, at least.
const logEnd = 100 * time.Millisecond

// close waits until everything is written, for that long at most.
func (q *logQueue) close(within time.Duration) {
	q.mu.Lock()
	q.closed = true
	q.arrived.Signal()
	q.mu.Unlock()
	select {
	case <-q.done:
	case <-time.After(within):
	}
}

func (q *logQueue) run() {
	defer close(q.done)
	for {
		q.mu.Lock()
		for len(q.lines) == 0 && !q.closed {
			q.arrived.Wait()
		}
		lines := q.lines
		q.lines = nil
		q.mu.Unlock()
		if len(lines) == 0 {
			return
		}
		for i := range lines {
			q.write(&lines[i])
		}
	}
}

// write writes one line, and first how many were lost before it.
func (q *logQueue) write(l *logLine) {
	q.mu.Lock()
	lost := q.lost
	q.mu.Unlock()
	if lost > 0 {
		r := slog.NewRecord(l.at, slog.LevelError, "log lines were lost; nobody read the log", 0)
		r.AddAttrs(slog.Int("lines", lost))
		if q.hand(r) != nil {
			q.count(1)
			return
		}
		q.count(-lost)
	}
	r := slog.NewRecord(l.at, l.note.Level, l.note.Text, 0)
	r.AddAttrs(l.note.Attrs...)
	if l.record != nil {
		r = slog.NewRecord(l.at, levelOf(l.record.Result), l.record.Words(), 0)
		r.AddAttrs(l.record.Attrs()...)
	}
	if q.hand(r) != nil {
		q.count(1)
	}
}

// hand hands a line to who writes it, which may take for ever.
func (q *logQueue) hand(r slog.Record) error {
	if !q.handler.Enabled(context.Background(), r.Level) {
		return nil
	}
	q.mu.Lock()
	q.writing = q.now()
	q.mu.Unlock()
	err := q.handler.Handle(context.Background(), r)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.writing, q.err = 0, err
	return err
}

func (q *logQueue) count(lost int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.lost += lost
}

// trouble is how many lines were lost since one was written last, for how long one
// has been on its way, and the error of the last.
func (q *logQueue) trouble() (lost int, stalled time.Duration, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.writing != 0 {
		stalled = q.now().Sub(q.writing)
	}
	return q.lost, stalled, q.err
}

func levelOf(r journal.Result) slog.Level {
	switch r {
	case journal.Failed:
		return slog.LevelError
	case journal.Unconfirmed, journal.Interrupted, journal.Firing, journal.Held:
		return slog.LevelWarn
	default:
		return slog.LevelInfo
	}
}
