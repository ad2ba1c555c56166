package engine

import (
	"slices"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sock"
)

// Paused says that nothing is to be acted on for now. What falls due is decided on as
// always, and waits as behind a limit; dry runs, alerts and the log go on. Acts that are
// handed out already are for who does them to give back.
type Paused struct {
	Until sock.Instant // it ends by itself then; sock.Never: it does not
}

// Resumed says that actions are done again.
type Resumed struct{}

func (in Paused) apply(e *Engine, now sock.Instant) {
	if !e.Paused() {
		e.sumUpHeld(now, false) // by what held it back until now
	}
	e.limit.Closed, e.pausedUntil = true, in.Until
	e.endPause(now)
}

func (Resumed) apply(e *Engine, now sock.Instant) { e.resume(now) }

// Paused reports whether nothing is acted on for now.
func (e *Engine) Paused() bool { return e.limit.Closed }

// endPause ends a pause whose time is over.
func (e *Engine) endPause(now sock.Instant) {
	if e.Paused() && now >= e.pausedUntil {
		e.resume(now)
		e.plan.Resumed = true
	}
}

// resume lets what waits go on, in the order and as fast as the limits allow.
func (e *Engine) resume(now sock.Instant) {
	if e.Paused() {
		e.sumUpHeld(now, true) // what still waits does not any more wait for that
		e.letGroupsGo()
		e.askForSkipped(now)
	}
	e.limit.Closed, e.pausedUntil = false, never
}

// askForSkipped has asked for what a pause has kept from an action that no limit counts
// for, and that so is in no queue.
func (e *Engine) askForSkipped(now sock.Instant) {
	byPause := func(s skip) bool { return s.reason == match.Paused }
	for t := range e.tracks.all() {
		if t.phase == waiting && t.turn == 0 && slices.ContainsFunc(e.recordOf(t).skipped, byPause) {
			e.wait(t, now)
		}
	}
}
