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
	queue[[]logLine]
	handler slog.Handler
	now     func() sock.Instant

	// Guarded by mu.
	lost    int          // lines, since one was written last
	writing sock.Instant // since when a line has been on its way; 0: none is
	err     error        // of the last line
}

// logLine is a line about an action, or else a note.
type logLine struct {
	at     time.Time
	record *journal.Record // nil: note
	note   note
}

const (
	// mostLines bounds what waits for the reader of the log: a few megabytes.
	mostLines = 4096
	// logEnd is how long the log has to take what is left, at least.
	logEnd = 100 * time.Millisecond
)

func newLogQueue(log *slog.Logger, now func() sock.Instant) *logQueue {
	q := &logQueue{handler: log.Handler(), now: now}
	q.start(func(lines []logLine) {
		for i := range lines {
			q.write(&lines[i])
		}
	})
	return q
}

// say adds a note.
func (q *logQueue) say(level slog.Level, text string, attrs ...slog.Attr) {
	q.add(time.Now(), []note{{level, text, attrs}}, nil)
}

// add has lines written, without waiting: one for each record, and notes. Nobody
// may change the records after.
func (q *logQueue) add(at time.Time, notes []note, records []journal.Record) {
	if len(notes)+len(records) == 0 {
		return
	}
	q.put(func(lines *[]logLine) {
		push := func(l logLine) {
			if len(*lines) < mostLines {
				*lines = append(*lines, l)
			} else {
				q.lost++
			}
		}
		for i := range records {
			push(logLine{at: records[i].Time, record: &records[i]})
		}
		for _, n := range notes {
			push(logLine{at: at, note: n})
		}
	})
}

// write writes one line, and first how many were lost before it.
func (q *logQueue) write(l *logLine) {
	q.mu.Lock()
	lost := q.lost
	q.mu.Unlock()
	if lost > 0 {
		r := slog.NewRecord(l.at, slog.LevelError, "log lines were lost; nobody read the log", 0)
		r.AddAttrs(slog.Int("lines", lost))
		if !q.hand(r, -lost) {
			q.lose(1) // l
			return
		}
	}
	r := slog.NewRecord(l.at, l.note.level, l.note.text, 0)
	r.AddAttrs(l.note.attrs...)
	if l.record != nil {
		r = slog.NewRecord(l.at, levelOf(l.record.Result), l.record.Words(), 0)
		r.AddAttrs(l.record.Attrs()...)
	}
	if !q.hand(r, 0) {
		q.lose(1)
	}
}

func (q *logQueue) lose(lines int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.lost += lines
}

// hand hands a line to who writes it, which may take for ever, and reports whether it
// was taken. Then so many more lines were lost.
func (q *logQueue) hand(r slog.Record, lost int) bool {
	if !q.handler.Enabled(context.Background(), r.Level) {
		return true
	}
	q.mu.Lock()
	q.writing = q.now()
	q.mu.Unlock()
	err := q.handler.Handle(context.Background(), r)
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.writing, q.err = 0, err; err == nil {
		q.lost += lost
	}
	return err == nil
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
