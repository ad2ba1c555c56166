package service

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Under systemd the log has levels that journalctl -p knows, where standard error is
// the journal: what a wrapper redirects to a file is JSON.
func TestLogForm(t *testing.T) {
	for _, test := range []struct {
		name, format  string
		stream, other bool // $JOURNAL_STREAM names this file, or another
		want          string
	}{
		{name: "a file", format: "auto", want: logJSON},
		{name: "the journal", format: "auto", stream: true, want: logJournal},
		{name: "a file, of a service's child", format: "auto", other: true, want: logJSON},
		{name: "text to a file", format: "text", want: LogText},
		{name: "text to the journal", format: "text", stream: true, want: logJournal},
		{name: "JSON to the journal", format: "json", stream: true, want: logJSON},
	} {
		t.Run(test.name, func(t *testing.T) {
			out := logFile(t)
			var stat unix.Stat_t
			if err := unix.Fstat(int(out.Fd()), &stat); err != nil {
				t.Fatal(err)
			}
			stream := ""
			switch {
			case test.stream:
				stream = fmt.Sprintf("%d:%d", stat.Dev, stat.Ino)
			case test.other:
				stream = fmt.Sprintf("%d:%d", stat.Dev, stat.Ino+1)
			}
			t.Setenv("JOURNAL_STREAM", stream)
			if got := LogForm(out, test.format); got != test.want {
				t.Errorf("LogForm: %q, want %q", got, test.want)
			}
		})
	}
}

func TestJournalHandler(t *testing.T) {
	out := logFile(t)
	log := NewLog(out, logJournal, slog.LevelDebug)
	log.Debug("selected", "states", 3)
	log.Info("kill done", slog.Group("socket", "dst", "10.0.9.2:5432"))
	log.With("receiver", "on call").Warn("two\nlines")
	log.WithGroup("rule").Error("failed", "name", "leak")
	text, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	const want = `<7>level=DEBUG msg=selected states=3
<6>level=INFO msg="kill done" socket.dst=10.0.9.2:5432
<4>level=WARN msg="two\nlines" receiver="on call"
<3>level=ERROR msg=failed rule.name=leak
`
	if string(text) != want {
		t.Errorf("the journal has\n%s\nwant\n%s", text, want)
	}
}

func logFile(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}
