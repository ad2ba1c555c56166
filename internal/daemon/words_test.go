package daemon

import (
	"log/slog"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/group"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// What waits for a canary is as it should be, and so is that nothing waits any more.
func TestLevelOfHeldBack(t *testing.T) {
	for _, test := range []struct {
		name string
		held engine.HeldBack
		want slog.Level
	}{
		{"a canary", engine.HeldBack{Began: 4, Waiting: 4, Why: []match.Reason{match.CanaryWaits}}, slog.LevelInfo},
		{"nothing any more", engine.HeldBack{Left: 4}, slog.LevelInfo},
		{"still, and for what it was said", engine.HeldBack{Waiting: 4}, slog.LevelWarn},
		{"a limit, too", engine.HeldBack{Began: 4, Waiting: 4, Why: []match.Reason{match.CanaryWaits, match.RuleLimit}}, slog.LevelWarn},
		{"a pause", engine.HeldBack{Waiting: 4, Shut: match.Paused, Why: []match.Reason{match.CanaryWaits}}, slog.LevelWarn},
	} {
		test.held.Kind = rules.Kill
		if r := heldBackOf(&test.held, time.Now()); levelOf(&r) != test.want {
			t.Errorf("%s: %v, want %v", test.name, levelOf(&r), test.want)
		}
	}
}

// For how long conditions held that hold no more does not read as if they held now.
func TestTransitionSaysWhatHeld(t *testing.T) {
	const now = sock.Instant(100 * time.Second)
	for _, test := range []struct {
		from, to group.Phase
		want     string
	}{
		{group.Pending, group.Firing, "count 0 (count > 2), for 59s"},
		{group.Firing, group.Quiet, "count 0 (count > 2); it had held for 59s"},
		{group.Pending, group.Quiet, "count 0 (count > 2); it had held for 59s"},
		{group.Quiet, group.Pending, "count 0 (count > 2)"},
	} {
		moved := engine.Transition{Transition: group.Transition{From: test.from, To: test.to, Since: now.Add(-59 * time.Second)}, When: []rules.Condition{{Metric: rules.Count, Op: rules.Greater, Number: 2}}}
		if r := transitionOf(&moved, now, time.Now()); r.Reason != test.want {
			t.Errorf("%s to %s: %q, want %q", test.from, test.to, r.Reason, test.want)
		}
	}
}
