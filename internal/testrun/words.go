package testrun

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sockdog/sockdog/internal/action"
	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sim/runner"
	"github.com/sockdog/sockdog/internal/term"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ruletest"
)

// shown is to what times are shown.
const shown = 100 * time.Millisecond

// most is how many of the same are named.
const most = 3

func text(at time.Duration) string { return at.Round(shown).String() }

// miss reports that something that was expected did not happen, or not as often.
func (t *trial) miss(e *ruletest.Expectation, found int) {
	f := Failure{Line: e.Line, Expected: t.expected(e)}
	f.Happened = "nothing by " + text(t.deadline(e))
	if found > 0 {
		f.Happened = fmt.Sprintf("%d of %d by %s", found, e.Count, text(t.deadline(e)))
	}
	f.Why = slices.Concat(t.spread(e), t.otherwise(e), t.why(e))
	t.failures = append(t.failures, f)
}

// expected is an expectation in words.
func (t *trial) expected(e *ruletest.Expectation) string {
	words := []string{text(e.At), e.Rule, e.Action.Name, e.Result}
	switch {
	case e.Socket >= 0:
		words = append(words, t.socketText(e.Socket, e.Count))
	case len(e.Group) > 0:
		words = append(words, groupText(e.Group))
	case e.Count > 1:
		words = append(words, term.Count(e.Count, "socket"))
	}
	return strings.Join(words, " ")
}

// socketText is what the test calls a socket.
func (t *trial) socketText(i, count int) string {
	d := &t.test.Sockets[i]
	name := d.Name
	if name == "" {
		name = fmt.Sprintf("socket %d", i+1)
	}
	if count > 1 {
		return fmt.Sprintf("%s (%d)", name, count)
	}
	return name
}

func groupText(group map[string]string) string {
	var words []string
	for _, name := range slices.Sorted(maps.Keys(group)) {
		words = append(words, name+"="+group[name])
	}
	return strings.Join(words, " ")
}

// spread says that what is done to sockets which appear one after the other takes as long.
func (t *trial) spread(e *ruletest.Expectation) []string {
	if e.Socket < 0 {
		return nil
	}
	d := &t.test.Sockets[e.Socket]
	over := time.Duration(d.Count-1) * d.Every
	if over <= t.deadline(e)-e.At {
		return nil
	}
	one := *e
	one.Within = 0
	within := (t.deadline(&one) - e.At + over + time.Second - 1).Truncate(time.Second)
	return []string{fmt.Sprintf("they appear over %s, and fall due so: write within: %s to wait for all", over, term.Short(within))}
}

// textOf is something that happened so often, until then, in words.
func (t *trial) textOf(h *happening, until time.Duration, count int) string {
	when := text(h.at)
	if last := text(until); last != when {
		when += " to " + last
	}
	words := []string{when, h.rule, h.kind.Name, h.result}
	if h.socket >= 0 {
		words = append(words, t.socketText(h.socket, count))
	} else if len(h.group) > 0 {
		words = append(words, groupText(h.group))
	}
	return strings.Join(words, " ")
}

// whyHappened says why something was done.
func (t *trial) whyHappened(h *happening) []string {
	if h.act == nil {
		return nil
	}
	return []string{action.Why(&h.act.Action)}
}

// otherwise is what the rule did instead: to the same socket, or at another time.
func (t *trial) otherwise(e *ruletest.Expectation) (lines []string) {
	for i := range t.happened {
		h := &t.happened[i]
		if h.told || h.rule != e.Rule || e.Socket >= 0 && h.socket != e.Socket {
			continue
		}
		if len(lines) == most {
			return append(lines, "and more")
		}
		line := "instead: " + t.textOf(h, h.at, 1)
		if h.act != nil && h.act.Reason != "" {
			line += ": " + action.Words(h.act.Reason)
		}
		lines = append(lines, line)
	}
	return lines
}

// why says what stands against what was expected, by what is so now.
func (t *trial) why(e *ruletest.Expectation) (lines []string) {
	rule := &t.set.Rules[t.rule(e.Rule)]
	if !rule.Enabled {
		return []string{"the rule is disabled"}
	}
	if len(rule.When) > 0 {
		lines = t.groupsNow(e)
	}
	if e.Action == rules.Alert || e.Action.OncePerFiring() || e.Action == rules.Log && len(rule.When) > 0 {
		return lines
	}
	return append(lines, t.whySockets(e, t.forecasts(e))...)
}

// groupsNow says how the groups of the rule stand.
func (t *trial) groupsNow(e *ruletest.Expectation) (lines []string) {
	r := &t.run.Overview().Rules[t.rule(e.Rule)]
	for i := range r.Groups {
		if i == most {
			return append(lines, "and more groups")
		}
		g := &r.Groups[i]
		name := "all sockets"
		if len(g.Group) > 0 {
			var words []string
			for _, l := range g.Group {
				words = append(words, l.Name+"="+l.Value)
			}
			name = strings.Join(words, " ")
		}
		var values []string
		for _, c := range r.When {
			values = append(values, fmt.Sprintf("%s %s (fires at %s)", c.Metric, g.Text(c.Metric), c))
		}
		lines = append(lines, fmt.Sprintf("the group %s is %s: %s", name, g.Phase, strings.Join(values, ", ")))
	}
	if len(lines) == 0 {
		lines = append(lines, "no group has a socket that the rule matches")
	}
	return lines
}

// whySockets says what keeps the rule from the sockets, the same reason once.
func (t *trial) whySockets(e *ruletest.Expectation, forecasts map[uint64]*engine.Forecast) (lines []string) {
	said := make(map[string]int)
	var order []string
	for i := range t.test.Sockets {
		if e.Socket >= 0 && e.Socket != i {
			continue
		}
		for _, s := range t.world.sockets[i] {
			f := forecasts[s.ID.Cookie]
			var line string
			switch {
			case t.world.Sockets[s.ID.Cookie] == nil:
				killed := t.killed(s.ID.Cookie)
				if killed != nil && killed.told && killed.meets(e) && killed.at >= e.At {
					continue // as expected
				}
				line = "is gone"
				if killed != nil {
					line += fmt.Sprintf(": %s, by %s at %s", killed.kind, killed.rule, text(killed.at))
				}
			case f == nil:
				line = "the rule does not match it: " + t.differs(e.Rule, s.ID.Cookie)
			default:
				line = t.forecastText(f)
			}
			line = t.socketText(i, 1) + ": " + line
			if said[line]++; said[line] == 1 {
				order = append(order, line)
			}
		}
	}
	for i, line := range order {
		if i == most {
			return append(lines, fmt.Sprintf("and %d more", len(order)-most))
		}
		if said[line] > 1 {
			line += fmt.Sprintf(" (%s)", term.Count(said[line], "socket"))
		}
		lines = append(lines, line)
	}
	return lines
}

// killed is what took the socket away, or nil.
func (t *trial) killed(cookie uint64) *happening {
	for i := range t.happened {
		h := &t.happened[i]
		if h.act != nil && h.act.Socket.ID.Cookie == cookie && h.kind == rules.Kill && h.act.Result == engine.Done {
			return h
		}
	}
	return nil
}

// forecastText says when the rule acts on a socket, or why not.
func (t *trial) forecastText(f *engine.Forecast) string {
	wanted := action.Wanted(&f.Grounds, &f.Socket, false)
	if f.IdleFor < f.InStateFor {
		wanted += ", no progress for " + text(f.IdleFor)
	}
	switch reason := t.reason(f); reason {
	case notDueReason:
		return "is due in " + term.Short(f.In) + ": " + wanted
	case limitReason:
		return "a limit holds it back: " + wanted
	case dueReason:
		return "is due: " + wanted
	default:
		return action.Words(f.Not) + " (kept_by: " + reason + "): " + wanted
	}
}

// differs says in what a socket differs from what a rule matches.
func (t *trial) differs(rule string, cookie uint64) string {
	s := t.world.Sockets[cookie].Report(t.world.Now, runner.Tick)
	held := t.world.table.Holders([]uint32{s.Inode})
	r := &t.set.Rules[t.rule(rule)]
	var all []string
	for i := range r.Match {
		m := &r.Match[i]
		var keys []string
		for _, d := range match.Differs(m, subject.Subject{Socket: &s, Holders: held.Of(s.Inode)}) {
			switch {
			case d.Unknown:
				keys = append(keys, "its "+d.Key+" is not known")
			case d.Key == "state":
				keys = append(keys, "its state is "+s.State.String())
			case d.Key == "filter":
				keys = append(keys, "not "+m.Where.String())
			default:
				keys = append(keys, d.Key+" differs")
			}
		}
		all = append(all, strings.Join(keys, ", "))
	}
	return strings.Join(all, "; or ")
}

// keptFailure says why a socket is kept, where something else was expected.
func (t *trial) keptFailure(e *ruletest.Expectation, reasons []string, forecasts map[uint64]*engine.Forecast) Failure {
	f := Failure{
		Line:     e.Line,
		Expected: fmt.Sprintf("%s %s leaves %s alone: kept by %s", text(e.At), e.Rule, t.socketText(e.Socket, e.Count), e.KeptBy),
	}
	var words []string
	for _, reason := range reasons {
		switch reason {
		case goneReason:
			words = append(words, "it is gone")
		case dueReason:
			words = append(words, "nothing keeps it")
		default:
			words = append(words, "kept by "+reason)
		}
	}
	f.Happened = strings.Join(words, ", and ")
	f.Why = append(t.otherwise(e), t.whySockets(e, forecasts)...)
	return f
}
