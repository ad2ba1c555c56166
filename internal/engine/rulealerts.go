package engine

import (
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/engine/spin"
	"github.com/sockdog/sockdog/internal/sock"
)

const (
	// problemsEvery is how often an alert about a rule itself is said again with fresh numbers.
	problemsEvery = time.Minute
	// keepProblem is how long such an alert goes on after its problem has ended by itself, so
	// that one that comes and goes does not flap.
	keepProblem = 5 * time.Minute
)

// Problem is what is wrong with a rule itself, or with what it cures.
type Problem struct {
	Kind        ProblemKind
	Stop        sock.RuleStop // of a rule that has stopped itself
	Sockets     int           // of one that means too many, and how many it may mean
	MaxSockets  int
	Spins       []spin.Spin // of one whose later kills made programs spin
	LeaksReturn []Leaker    // of one that kills in vain
}

// ProblemKind is what kind of problem it is.
type ProblemKind string

// The kinds of problems.
const (
	StoppedItself   ProblemKind = "stopped"
	TooManyToAct    ProblemKind = "max_matches"
	KillsMakeSpin   ProblemKind = "spin"
	KillingIsNoCure ProblemKind = "leak"
)

var problemKinds = [...]ProblemKind{StoppedItself, TooManyToAct, KillsMakeSpin, KillingIsNoCure}

// RuleAlert is an alert about a rule itself. No action asks for it.
type RuleAlert struct {
	Rule   string
	About  string            // the rule's description
	Labels map[string]string // the rule's
	To     []string          // receivers; empty: all
	Problem
	Since sock.Instant // it has stood since
	Ended sock.Instant // it stood until then; 0: it stands
}

// troubles is what is wrong with a rule.
type troubles struct {
	tooMany bool // it means more sockets than it may
	told    [len(problemKinds)]toldProblem
}

// toldProblem is a problem that receivers are alerted of.
type toldProblem struct {
	Problem
	since sock.Instant // 0: they are not
	over  sock.Instant // it has ended by itself, and may come back soon; 0: it stands
}

// problem returns what is wrong with the rule, of one kind, if something is.
func (e *Engine) problem(r *ruleState, kind ProblemKind, now sock.Instant) (p Problem, is bool) {
	p.Kind = kind
	switch stop := r.stopped(); {
	case !r.Enabled || r.DryRun: // a dry run sends nothing
		return p, false
	case kind == StoppedItself && stop != nil:
		p.Stop = *stop
		return p, true
	case kind == TooManyToAct:
		p.Sockets, p.MaxSockets = r.means(), r.maxMatches()
		return p, r.troubles.tooMany
	case kind == KillsMakeSpin && stop == nil: // else that says it
		p.Spins = slices.DeleteFunc(e.usages.All(), func(s spin.Spin) bool { return s.Rule != r.Name })
		return p, len(p.Spins) > 0
	case kind == KillingIsNoCure:
		p.LeaksReturn = r.history.leakers(now)
		return p, len(p.LeaksReturn) > 0
	}
	return p, false
}

// alertOfRules says which problems of rules stand, and which have ended.
func (e *Engine) alertOfRules(now sock.Instant) {
	if now < e.problemsAt {
		return
	}
	e.problemsAt = never
	for _, r := range e.rules {
		for i, kind := range problemKinds {
			p, is := e.problem(r, kind, now)
			e.tellProblem(r, &r.troubles.told[i], p, is, now)
		}
	}
}

// tellProblem says how it stands with a problem of a rule.
func (e *Engine) tellProblem(r *ruleState, told *toldProblem, p Problem, is bool, now sock.Instant) {
	switch {
	case is && told.since == 0:
		told.since = now
		if p.Kind == StoppedItself {
			told.since = p.Stop.Since
		}
	case is:
	case told.since == 0:
		return
	case told.over == 0:
		told.over = now
	}
	if is {
		told.Problem, told.over = p, 0
	} else if told.Kind == StoppedItself || now >= told.over.Add(keepProblem) {
		e.endProblem(r, told, told.over)
		return
	}
	e.problemsAt = min(e.problemsAt, now.Add(problemsEvery))
	if told.over != 0 {
		e.problemsAt = min(e.problemsAt, told.over.Add(keepProblem))
	}
	e.plan.RuleAlerts = append(e.plan.RuleAlerts, r.alert(told))
}

// endProblem says that a problem of a rule has ended.
func (e *Engine) endProblem(r *ruleState, told *toldProblem, at sock.Instant) {
	a := r.alert(told)
	a.Ended = at
	e.plan.RuleAlerts = append(e.plan.RuleAlerts, a)
	*told = toldProblem{}
}

// endProblems says so of all problems of a rule that is in force no more.
func (e *Engine) endProblems(r *ruleState, now sock.Instant) {
	for i := range r.troubles.told {
		if told := &r.troubles.told[i]; told.since != 0 {
			e.endProblem(r, told, now)
		}
	}
}

// alert returns the alert of a problem of the rule.
func (r *ruleState) alert(told *toldProblem) RuleAlert {
	return RuleAlert{Rule: r.Name, About: r.Description, Labels: r.Labels, To: r.receivers(), Problem: told.Problem, Since: told.since}
}

// receivers are those that the alerts of the rule go to; none: all, as they are of an alert that
// names none, or of a rule that has no alert.
func (r *ruleState) receivers() (to []string) {
	for i := range r.Then {
		a := r.Then[i].Alert
		switch {
		case a == nil:
			continue
		case len(a.To) == 0:
			return nil
		}
		for _, name := range a.To {
			if !slices.Contains(to, name) {
				to = append(to, name)
			}
		}
	}
	return to
}
