package daemon

import (
	"log/slog"
	"time"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/journal"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/status"
)

// pause has nothing acted on from now on, or with nil, or a pause whose time is over, has what
// waits acted on again. What the engine is to take in for that is returned.
func (d *watch) pause(p *status.Pause) engine.Input {
	now := time.Now()
	if p == nil || p.Over(now) {
		why := "somebody resumed it"
		if p != nil {
			why = timeOver
		}
		if d.shown.paused != nil {
			d.resume(now, why)
		}
		return engine.Resumed{}
	}
	defer d.showPause()
	d.paused.Store(true)
	kept := *p
	kept.Until = kept.Until.Round(0) // a date: Go's own clock stands still while the machine is suspended
	if kept.Since.After(now) {
		kept.Since = now // the file's own clock is ahead
	}
	d.shown.paused = &kept
	d.tell(journal.Record{Time: now, Action: acting, Result: journal.Paused, Reason: kept.Words()})
	return d.pausedUntil(&kept)
}

// pausedUntil tells the engine when a pause ends.
func (d *watch) pausedUntil(p *status.Pause) engine.Paused {
	if p.Until.IsZero() {
		return engine.Paused{Until: sock.Never}
	}
	return engine.Paused{Until: d.Now().Add(time.Until(p.Until))}
}

// drive has the engine take in something, and hands out what it plans. A pause that is over by
// the engine's clock, and not by its date, goes on: the wall clock was set back. What was let
// go on meanwhile is given back by who acts.
func (d *watch) drive(in engine.Input) engine.Plan {
	plan := d.driver.Step(in)
	if p := d.shown.paused; plan.Resumed && p != nil {
		d.driver.Step(d.pausedUntil(p))
	}
	return plan
}

// timeOver is why a pause has ended that nobody ended.
const timeOver = "the time of the pause is over"

// acting is what all actions together are called in records.
const acting = "acting"

// resume notes that the pause has ended, and why.
func (d *watch) resume(now time.Time, why string) {
	d.paused.Store(false)
	d.shown.paused = nil
	d.tell(journal.Record{Time: now, Action: acting, Result: journal.Resumed, Reason: why})
	d.showPause()
}

// showPause shows at once whether acting is paused: who has just seen to that looks now.
func (d *watch) showPause() {
	if d.service.ready {
		d.publish()
		d.Notify("STATUS=" + d.statusLine())
	}
}

// tell writes a record of its own to the journal and the log.
func (d *watch) tell(r journal.Record) {
	records := []journal.Record{r}
	d.recorder.add(&engine.Plan{}, records)
	d.log.add(logLines(records)...)
}

// judgePause finds that nothing is acted on.
func (d *watch) judgePause(tell tellProblem) {
	p := d.shown.paused
	if p == nil {
		tell(false, pausedKind, "", "")
		return
	}
	cure := "sockdog resume"
	if p.File != "" {
		cure += ", or remove " + p.File
	}
	tell(true, pausedKind, "nothing is acted on, acting is paused: "+p.Words(), cure)
}

const pausedKind = "paused"

// resetRule has a rule act again. What the engine is to take in for that is returned.
func (d *watch) resetRule(r RuleReset) engine.Input {
	var names []string
	for _, rule := range d.engine.Overview(d.Now()).Rules {
		if rule.Name != r.Rule {
			names = append(names, rule.Name)
			continue
		}
		d.log.say(slog.LevelInfo, "rule reset", slog.String("rule", r.Rule), slog.String("by", r.By), slog.Bool("had_stopped", rule.Stopped != nil))
		r.Done <- RuleResetDone{Was: rule.Stopped != nil}
		return engine.RuleReset{Rule: r.Rule}
	}
	r.Done <- RuleResetDone{Rules: append([]string{}, names...)}
	return nil
}
