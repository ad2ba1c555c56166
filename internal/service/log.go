package service

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

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

// LogForm is the form of a log that goes to out: text for people, and JSON for
// everything else but systemd's journal, in which JSON would have no level.
func LogForm(out io.Writer, format string) (string, error) {
	f, _ := out.(*os.File)
	switch {
	case format == logJSON:
		return logJSON, nil
	case format != "auto" && format != LogText:
		return "", fmt.Errorf("--log-format is auto, text or json, not %q", format)
	case f != nil && isJournal(f):
		return logJournal, nil
	case format == LogText || f != nil && term.Is(f):
		return LogText, nil
	default:
		return logJSON, nil
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
func NewLog(out io.Writer, form, level string) (*slog.Logger, error) {
	options := slog.HandlerOptions{Level: slog.LevelInfo}
	switch level {
	case "info":
	case "debug":
		options.Level = slog.LevelDebug
	default:
		return nil, fmt.Errorf("--log-level is info or debug, not %q", level)
	}
	switch form {
	case LogText:
		return slog.New(slog.NewTextHandler(out, &options)), nil
	case logJournal:
		line := new(journalLine)
		line.out = out
		return slog.New(journalHandler{slog.NewTextHandler(&line.text, &options), line}), nil
	default:
		options.ReplaceAttr = journal.InSeconds
		return slog.New(slog.NewJSONHandler(out, &options)), nil
	}
}

// journalHandler writes text with the priorities of sd-daemon(3), by which
// journalctl -p selects. The time is the journal's own.
type journalHandler struct {
	slog.Handler // writes to line.text
	line         *journalLine
}

// journalLine is the line that is being written.
type journalLine struct {
	sync.Mutex
	out  io.Writer
	text bytes.Buffer
}

func (h journalHandler) Handle(ctx context.Context, r slog.Record) error {
	h.line.Lock()
	defer h.line.Unlock()
	h.line.text.Reset()
	fmt.Fprintf(&h.line.text, "<%d>", priority(r.Level))
	r.Time = time.Time{}
	if err := h.Handler.Handle(ctx, r); err != nil {
		return err
	}
	_, err := h.line.out.Write(h.line.text.Bytes())
	return err
}

func (h journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return journalHandler{h.Handler.WithAttrs(attrs), h.line}
}

func (h journalHandler) WithGroup(name string) slog.Handler {
	return journalHandler{h.Handler.WithGroup(name), h.line}
}

// priority is syslog's of a level.
func priority(level slog.Level) int {
	switch {
	case level >= slog.LevelError:
		return 3
	case level >= slog.LevelWarn:
		return 4
	case level >= slog.LevelInfo:
		return 6
	default:
		return 7
	}
}
