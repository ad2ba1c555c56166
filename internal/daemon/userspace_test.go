package daemon_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/sockdog/sockdog/internal/daemon"
	"github.com/sockdog/sockdog/internal/nstest"
)

// Where the kernel cannot select by the rules sockdog does it itself, and says so:
// once, and once when that has changed.
func TestMatchedInUserSpace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.options.Log = slog.New(slog.NewJSONHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	const (
		inUserSpace = "the sockets are matched in user space"
		inKernel    = "the kernel selects the sockets again"
	)
	said := func(text string) bool { return w.count(text) > 0 }
	rule := func(ports string) string {
		return often + fmt.Sprintf("rules: [{name: leak, match: {state: close-wait, sport: %s, in_state_for: %v}, then: kill}]\n", ports, bound)
	}
	var many strings.Builder
	for port := 2; port < 10002; port += 2 {
		fmt.Fprintf(&many, "%d, ", port)
	}
	l, other := w.listen(nstest.V4, 5432), w.listen(nstest.V4, 5433)
	w.watch(rule("[" + many.String() + "]"))
	spared := w.leak(other)
	for range 2 { // with scans between them
		w.dies(w.leak(l), bound)
	}
	if n := w.count(inUserSpace); n != 1 {
		t.Errorf("said %d times that they are matched in user space, want once", n)
	}
	why := w.await("reason", func(l line) bool { return l.Msg == inUserSpace })
	if why.Reason != "the filter is too large for the kernel" || why.Level != "DEBUG" {
		t.Errorf("%+v", why)
	}
	if said(inKernel) {
		t.Error("said that the kernel selects them, which has not begun to")
	}

	w.rules <- daemon.Reload{Rules: w.parse(rule("5432"))}
	w.dies(w.leak(l), bound)
	w.until("word that the kernel selects", func() bool { return said(inKernel) })
	if n := w.count(inUserSpace) + w.count(inKernel); n != 2 {
		t.Errorf("%d lines say where they are matched, want 2", n)
	}
	w.lives(spared, 8)
}
