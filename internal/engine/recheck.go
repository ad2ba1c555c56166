package engine

import (
	"time"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/engine/track"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// basis is what an act was decided on: enough to decide it again by the last
// answer about its socket, on the thread that acts. Nothing in it changes.
type basis struct {
	rule         *match.Rule
	action       *rules.Action
	fired        sock.Instant // as in match.Rule.Decide
	seen         track.Connection
	holders      *subject.Holders
	protect      []rules.Match
	capabilities match.Capabilities
	self         int
	precision    time.Duration
	shut         *shutDown     // nil: it was decided by the state that the rule is about
	keptAlive    bool          // as in subject.Subject
	recent       time.Duration // how old holders may be that it was decided by; 0: it was not
}

// basisOf returns what an action of the rule on t is decided on.
func (e *Engine) basisOf(t *tracked, r *ruleState, action int, fired sock.Instant) *basis {
	recent := time.Duration(0)
	if e.program.HoldersDecideFor(r.Rule, &r.Then[action]) {
		recent = e.walks.Recent()
	}
	return &basis{
		recent: recent, rule: r.Rule, action: &r.Then[action], fired: fired, protect: e.program.Protect, capabilities: e.capabilities, self: e.config.Self, precision: e.config.Precision,
		seen: e.tracks.connection(t), holders: t.holders, keptAlive: e.keptAlive(t, r, &r.Then[action]),
	}
}

// Recheck decides an act anew by an answer about its socket that is newer than
// the decision, and says why it must not be done any more, or "". The record of
// the intent is written between the two, which a slow disk draws out; in that
// time a socket can come alive, or be connected anew under the same cookie.
//
// It may be called from any goroutine. The answer is neither an error nor Gone.
func (a *Action) Recheck(answer *sock.Answer) match.Reason {
	b := a.basis
	seen, s := b.seen, answer.Socket
	if !seen.Same(&s, answer.Sent) || b.shut != nil && !seen.SameShut(&s, answer.Sent) {
		return match.Replaced
	}
	progressed := seen.Progressed(&s)
	seen.Update(&s, track.TimesOf(&s, answer.Sent, answer.Got, b.precision), answer.Got)
	seen.TellAutobound(&s)
	sub := heldSubject(&s, b.holders)
	sub.KeptAlive = b.keptAlive
	if b.recent > 0 && s.Inode != 0 && answer.Got.Sub(b.holders.At) > b.recent {
		return match.HoldersOld
	}
	if decision := b.decide(&seen.Times, sub, answer.Got); decision != match.Due {
		switch {
		case progressed:
			return match.Progressed
		case s.InUse() && b.shut == nil: // where its FIN waits to be acknowledged
			return match.InUse
		default:
			return match.Unmatched
		}
	}
	return guard(&s, b.holders, b.protect, b.capabilities, b.self)
}

// decide decides by an answer that came then, and what is known since.
func (b *basis) decide(t *track.Times, s subject.Subject, got sock.Instant) (decision match.Decision) {
	if b.shut == nil {
		decision, _ = b.rule.Decide(b.action, t, s, b.fired, got, true)
		return decision
	}
	at, _ := b.shut.dueAt(b.action, t)
	decision, _ = b.rule.DecideShut(s, at, got)
	return decision
}
