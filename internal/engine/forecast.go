package engine

import (
	"cmp"
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/engine/track"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// ScanAll returns a scan for all rules at once that leaves nothing to a later one.
func ScanAll(p *match.Program, precision time.Duration) *Scan {
	return &Scan{Query: p.Queries[1<<match.NumClasses-1], program: p, of: 1<<match.NumClasses - 1, lookahead: never, survey: true, precision: precision}
}

// Inodes are those of the sockets found.
func (f *ScanResult) Inodes() map[uint32]struct{} {
	inodes := make(map[uint32]struct{})
	for h := range f.hits.All() {
		if inode := h.inode; inode != 0 {
			inodes[inode] = struct{}{}
		}
	}
	return inodes
}

// Forecast is what one action of a rule would do to a socket if nothing changed.
type Forecast struct {
	Action
	In    time.Duration // until it falls due, at the latest; 0 or less: it is, or never will be
	Not   match.Reason  // why it would be left alone then all the same, as it is now, or ""
	Bound bool          // its times are lower bounds
}

// Forecasts says what the rules would do to the sockets of a survey. Limits count for what
// is due now; for what falls due later, they depend on what else does meanwhile. Groups fire
// as they do in the engine that watches them; nil: none does.
func Forecasts(f *ScanResult, config Config, capabilities match.Capabilities, restored Restored, owned HoldersFound, watching *Engine, now sock.Instant) []Forecast {
	e := New(config)
	e.Step(now, CapabilitiesChanged{capabilities})
	e.Step(now, restored)
	e.Step(now, RulesChanged{Program: f.scan.program})
	var all []Forecast
	seen := make(map[uint64]bool)
	for h := range f.hits.All() {
		shown := f.hits.socket(h)
		s := &shown
		if seen[s.ID.Cookie] {
			continue // a walk of the hash table can come upon a socket twice
		}
		seen[s.ID.Cookie] = true
		got := f.hits.got(h)
		age := e.ageOf(s, f.sentBy(got), got)
		t := e.observe(s, f.sentBy(got), got, now)
		t.holders = owned.Of(s.Inode)
		for r := range e.program.RulesFor(t.subject(s)) {
			rs := e.rules[r.Position]
			for k := range r.Then {
				if r.Grouped && r.Then[k].Kind.On != rules.OnSocket {
					continue // about the group, and not about the socket
				}
				fired := sock.Instant(0)
				if r.Grouped {
					fired = watching.firingSince(r, t.subject(s), now)
				}
				all = append(all, e.forecast(t, s, rs, k, fired, !age.Exact, now))
			}
		}
	}
	e.holdBack(all, now)
	return all
}

// holdBack has of what is due each socket be the first rule's in the file that takes it, and
// limits hold back what is beyond them, in the order of the rule.
func (e *Engine) holdBack(all []Forecast, now sock.Instant) {
	due := make(map[*ruleState][]*Forecast)
	for i := range all {
		if f := &all[i]; f.Not == "" && f.In <= 0 && f.Kind.Destructive {
			due[f.of] = append(due[f.of], f)
		}
	}
	taken, told := make(map[sock.Key]*ruleState), make(map[sock.Key]*ruleState) // by a dry run
	for _, r := range e.rules {
		slices.SortStableFunc(due[r], r.earlier)
		for _, f := range due[r] {
			key, by := f.Socket.ID.Key(), taken
			if f.DryRun {
				by = told
			}
			first := taken[key]
			if first == nil && f.DryRun {
				first = told[key]
			}
			h := r.history.throttle(f.DryRun)
			switch {
			case first != nil && first != r:
				f.Not = match.Taken
			case h.Room(now) == 0:
				f.Not = h.holdsBy(now)
				by[key] = r // where it waits
			default:
				h.Begin()
				by[key] = r
			}
		}
	}
}

// earlier orders what is due for the rule as limits let it go on.
func (r *ruleState) earlier(a, b *Forecast) int {
	newest := func(x rules.Action) bool { return x.Kind == a.Kind && x.Order == rules.Newest }
	if slices.ContainsFunc(r.Then, newest) {
		a, b = b, a
	}
	return cmp.Compare(b.InStateFor, a.InStateFor)
}

// firingSince returns since when the group of a socket fires; never: it does not.
func (e *Engine) firingSince(r *match.Rule, s subject.Subject, now sock.Instant) sock.Instant {
	if e == nil {
		return never
	}
	fired, _ := e.rules[r.Position].groups.FiringSince(s, now, e.trusted(r.Class))
	return fired
}

// ageOf is the age of a socket that was not observed yet.
func (e *Engine) ageOf(s *sock.Socket, sent, got sock.Instant) track.Age {
	m, known := e.earlier.memories[s.ID.Key()]
	if !known {
		return track.AgeOf(s, nil, sent, got, e.config.Precision)
	}
	return track.AgeOf(s, &m, sent, got, e.config.Precision)
}

func (e *Engine) forecast(t *tracked, s *sock.Socket, r *ruleState, action int, fired sock.Instant, bound bool, now sock.Instant) Forecast {
	f := Forecast{Action: e.action(t, s, r, action, now), Bound: bound}
	f.In, f.Not = e.byRule(t, s, r, action, fired, now)
	if f.Not == "" && f.Kind.On == rules.OnSocket {
		f.Not = e.guard(t, s)
		if f.Err = e.capabilities.Cannot(&r.Then[action], s); f.Not == "" && f.Err != nil {
			f.Not = match.NotPossible
		}
		if f.Not == "" && !f.DryRun && r.stopped() != nil {
			f.Not = match.RuleStopped
		}
		if f.Not == "" && f.Via == rules.ViaHolder {
			f.Not = e.unreachable(t, s, now)
		}
	}
	return f
}

// byRule returns when the action falls due by what the rule says, and what would keep it from
// the socket then, if the socket stayed as it is. Of several matches of the rule, a later one
// may be due where an earlier one is not.
func (e *Engine) byRule(t *tracked, s *sock.Socket, r *ruleState, action int, fired, now sock.Instant) (in time.Duration, not match.Reason) {
	by, times, kept := t.subject(s), t.Times(), never
	excluded := match.Any(r.Exclude, by) == ssfilter.True
	if fired == never && !excluded {
		return 0, match.GroupIsQuiet
	}
	for at := now; at != never; {
		decision, next := r.Decide(&r.Then[action], &times, by, fired, at, true)
		if decision == match.Due {
			return at.Sub(now), ""
		}
		if decision == match.Blocked {
			kept = min(kept, at)
		}
		at = next
	}
	switch {
	case kept != never:
		return kept.Sub(now), e.keptBy(t, s, r, &r.Then[action], kept)
	case excluded:
		return 0, match.Excluded
	case times.Queued == never:
		return 0, match.NotStalled
	default:
		return 0, match.NotIdle
	}
}

// keptBy says what keeps an action from the socket that is due at that instant.
func (e *Engine) keptBy(t *tracked, s *sock.Socket, r *ruleState, a *rules.Action, at sock.Instant) match.Reason {
	meansUse := func(m rules.Match) bool { return m.StalledFor > 0 }
	switch unknown := e.unknownOfHolders(t, s, r, a, at); {
	case unknown != "":
		return unknown
	case match.Any(r.Exclude, t.subject(s)) != ssfilter.False:
		return match.Excluded // for all that is known
	case s.InUse() && !slices.ContainsFunc(r.Match, meansUse):
		return match.InUse
	default:
		return match.Unmet
	}
}
