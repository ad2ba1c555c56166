package daemon_test

import (
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/daemon"
	"github.com/sockdog/sockdog/internal/status"
)

// How the source does is shown as it says, what it says stands in the log, and what it
// cannot open is a problem for as long.
func TestSourceShown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.options.SourceLog = func(say daemon.Say) {
		say(slog.LevelWarn, "events are gone; scans go on", slog.String("reason", "test"))
	}
	var now atomic.Pointer[status.Source]
	now.Store(&status.Source{Kind: status.Events, Namespaces: 3, LeftOut: "2 cannot be entered", Older: 2})
	w.options.SourceState = func() status.Source { return *now.Load() }
	current := w.show()
	w.watch(often + leaked)
	w.until("the source with its problem", func() bool {
		s := current()
		return cmp.Equal(s.Source, *now.Load()) && len(s.Problems) == 1 && strings.HasSuffix(s.Problems[0].Text, ": 2 cannot be entered")
	})
	if n := w.count("events are gone"); n != 1 {
		t.Errorf("the log has %d lines of the source, want 1", n)
	}
	now.Store(&status.Source{Kind: status.SockDiag, Reason: "CAP_BPF is missing", Namespaces: 5})
	w.until("another source, without a problem", func() bool {
		s := current()
		return cmp.Equal(s.Source, *now.Load()) && len(s.Problems) == 0
	})
}
