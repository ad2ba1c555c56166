package service

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/journal"
	"github.com/sockdog/sockdog/internal/term"
)

// The forms that a log can have.
const (
	LogText    = "text"
	logJSON    = "json"
	logJournal = "journal" // text for systemd's journal
)

// LogForm is the form of a log that goes to out, where the format is not given: text
// for people, and JSON for everything else but systemd's journal, in which JSON would
// have no level.
func LogForm(out io.Writer, format string) string {
	f, _ := out.(*os.File)
	switch {
	case format == logJSON:
		return logJSON
	case f != nil && isJournal(f):
		return logJournal
	case format == LogText || f != nil && term.Is(f):
		return LogText
	default:
		return logJSON
	}
}

// isJournal reports whether a file leads to systemd's journal (systemd.exec(5)): a
// child of a service inherits $JOURNAL_STREAM, and may write elsewhere.
func isJournal(f *os.File) bool {
	var stat unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &stat); err != nil {
		return false
	}
	return os.Getenv("JOURNAL_STREAM") == fmt.Sprintf("%d:%d", stat.Dev, stat.Ino)
}

// NewLog makes a log of a form that LogForm returned.
func NewLog(out io.Writer, form string, level slog.Level) *slog.Logger {
	options := slog.HandlerOptions{Level: level}
	switch form {
	case LogText:
		return slog.New(slog.NewTextHandler(out, &options))
	case logJournal:
		options.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey && len(groups) == 0 {
				return slog.Attr{} // the time is the journal's own
			}
			return a
		}
		return slog.New(slog.NewTextHandler(prioritized{out}, &options))
	default:
		options.ReplaceAttr = journal.InSeconds
		return slog.New(slog.NewJSONHandler(out, &options))
	}
}

// prioritized writes lines with the priorities of sd-daemon(3) before them, by which
// journalctl -p selects. Each line begins with its level, and is one write.
type prioritized struct{ out io.Writer }

func (p prioritized) Write(line []byte) (int, error) {
	level, _, _ := bytes.Cut(bytes.TrimPrefix(line, []byte("level=")), []byte(" "))
	priority, known := map[string]int{"ERROR": 3, "WARN": 4, "INFO": 6}[string(level)]
	if !known {
		priority = 7
	}
	_, err := p.out.Write(fmt.Appendf(nil, "<%d>%s", priority, line))
	return len(line), err
}
