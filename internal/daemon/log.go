package daemon

import (
	"context"
	"log/slog"
	"time"

	"github.com/sockdog/sockdog/internal/journal"
	"github.com/sockdog/sockdog/internal/sock"
)

// logQueue writes to the log, whose reader may read no further, or be gone. What it
// has no room for is dropped, counted, and said once lines are taken again.
type logQueue struct {
	queue[[]slog.Record]
	handler slog.Handler
	now     func() sock.Instant

	// Guarded by mu.
	lost    int          // lines, since one was written last
	writing sock.Instant // since when a line has been on its way; 0: none is
	err     error        // of the last line
}

const (
	// mostLines bounds what waits for the reader of the log: a few megabytes.
	mostLines = 4096
	// logEnd is how long the log has to take what is left, at least.
	logEnd = 100 * time.Millisecond
)

func newLogQueue(log *slog.Logger, now func() sock.Instant) *logQueue {
	q := &logQueue{handler: log.Handler(), now: now}
	q.start(func(lines []slog.Record) {
		for _, r := range lines {
			q.write(r)
		}
	})
	return q
}

// say adds a line about sockdog itself.
func (q *logQueue) say(level slog.Level, text string, attrs ...slog.Attr) {
	q.add(logLine(time.Now(), level, text, attrs))
}

// logLine returns a line for the log.
func logLine(at time.Time, level slog.Level, text string, attrs []slog.Attr) slog.Record {
	r := slog.NewRecord(at, level, text, 0)
	r.AddAttrs(attrs...)
	return r
}

// logLines returns a line for each record.
func logLines(records []journal.Record) []slog.Record {
	lines := make([]slog.Record, len(records))
	for i := range records {
		r := &records[i]
		lines[i] = logLine(r.Time, levelOf(r), r.Words(), r.Attrs())
	}
	return lines
}

// add has lines written, without waiting.
func (q *logQueue) add(lines ...slog.Record) {
	if len(lines) == 0 {
		return
	}
	q.put(func(next *[]slog.Record) {
		fit := min(len(lines), mostLines-len(*next))
		*next = append(*next, lines[:fit]...)
		q.lost += len(lines) - fit
	})
}

// write writes one line, and first how many were lost before it. That may take for
// ever.
func (q *logQueue) write(r slog.Record) {
	ctx := context.Background()
	if !q.handler.Enabled(ctx, r.Level) {
		return
	}
	q.mu.Lock()
	lost := q.lost
	q.writing = q.now()
	q.mu.Unlock()
	var err error
	if lost > 0 {
		err = q.handler.Handle(ctx, logLine(r.Time, slog.LevelError, "log lines were lost; nobody read the log", []slog.Attr{slog.Int("lines", lost)}))
	}
	told := err == nil
	if told {
		err = q.handler.Handle(ctx, r)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.writing, q.err = 0, err; err != nil {
		q.lost++ // r
	}
	if told {
		q.lost -= lost
	}
}

// trouble returns how many lines were lost since one was written last, for how long
// one has been on its way, and the error of the last.
func (q *logQueue) trouble() (lost int, stalled time.Duration, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.writing != 0 {
		stalled = q.now().Sub(q.writing)
	}
	return q.lost, stalled, q.err
}

func levelOf(r *journal.Record) slog.Level {
	switch r.Result {
	case journal.Failed:
		return slog.LevelError
	case journal.Held:
		if r.Routine {
			return slog.LevelInfo
		}
		return slog.LevelWarn
	case journal.Unconfirmed, journal.Interrupted, journal.Firing, journal.Paused:
		return slog.LevelWarn
	default:
		return slog.LevelInfo
	}
}
