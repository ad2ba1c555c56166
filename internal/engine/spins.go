package engine

import (
	"log/slog"
	"slices"
	"strconv"

	"github.com/sockdog/sockdog/internal/engine/spin"
	"github.com/sockdog/sockdog/internal/sock"
)

// Sampled says what a plan's Sample found; nothing of those that could not be read.
type Sampled struct{ Usages []spin.Usage }

// spinRule identifies the rule to who watches its holders.
func (r *ruleState) spinRule() spin.Rule { return spin.Rule{Name: r.Name, Sum: r.Sum} }

// awaitUsage returns until when the first kills of the holders of t wait, so that it
// is known how much CPU they use without them. What was seen before it fell due is
// not late for that.
func (e *Engine) awaitUsage(t *tracked, now sock.Instant) sock.Instant {
	e.usages.Watch(t.heldBy(), now)
	if t.is(foreseen) {
		return 0
	}
	return e.usages.KnownAt(t.heldBy())
}

func (in Sampled) apply(e *Engine, now sock.Instant) {
	for _, c := range e.usages.Take(in.Usages, now) {
		e.problemsAt = 0
		attrs := []slog.Attr{slog.String("rule", c.Rule), slog.Int("pid", c.PID), slog.String("comm", c.Comm), slog.String("cpu", percent(c.After))}
		if c.Over {
			e.note(SpinOver, attrs...)
			e.revalidate(c.Process, now)
		} else {
			e.note(SpinBegan,
				append(attrs, slog.String("cpu_before", percent(c.Before)), slog.String("cpu_waits", percent(c.Waits)))...)
		}
	}
}

// percent is a usage as top(1) shows it.
func percent(cores float64) string { return strconv.FormatFloat(100*cores, 'f', 0, 64) + "%" }

// revalidate has everything asked again that a process holds and that waits for a scan.
func (e *Engine) revalidate(p spin.Process, now sock.Instant) {
	holds := func(h sock.Holder) bool { return h.PID == p.PID && h.Start == p.Start }
	for t := range e.tracks.all() {
		if t.is(blocked) && t.phase == waiting && e.recordOf(t).held.rule == nil && slices.ContainsFunc(t.heldBy(), holds) {
			e.wait(t, now)
		}
	}
}
