package plan

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/sockdog/sockdog/internal/action"
	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/group"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/engine/track"
	"github.com/sockdog/sockdog/internal/sockettable"
	"github.com/sockdog/sockdog/internal/term"
	"github.com/sockdog/sockdog/rules"
)

// planned is a forecast in -o json, under the names that the log uses.
type planned struct {
	Rule   string  `json:"rule"`
	Action string  `json:"action"`
	DryRun bool    `json:"dry_run"`
	DueIn  float64 `json:"due_in"` // seconds; 0: now
	Not    string  `json:"not,omitempty"`
	KeptBy string  `json:"kept_by,omitempty"` // why Not, in one word, as tests of rules have it
	Reason string  `json:"reason"`
	sockettable.Object
}

// plannedGroup is how a group stands in -o json, under the names that the log uses.
type plannedGroup struct {
	Rule    string            `json:"rule"`
	Action  string            `json:"action"` // group
	Result  group.Phase       `json:"result"`
	DryRun  bool              `json:"dry_run"`
	Reason  string            `json:"reason"`
	Group   map[string]string `json:"group"`
	Sockets int               `json:"sockets"`
}

func groupOf(r *engine.RuleOverview, g *group.Overview) plannedGroup {
	p := plannedGroup{Rule: r.Name, Action: "group", Result: g.Phase, DryRun: r.DryRun, Group: subject.ByName(g.Group), Sockets: g.Count}
	conditions := make([]string, len(r.When))
	for i, c := range r.When {
		conditions[i] = fmt.Sprintf("%s (%s)", valueOf(g, c.Metric), c)
	}
	p.Reason = strings.Join(conditions, " and ")
	return p
}

// valueOf is what a group measures, as a condition has it.
func valueOf(g *group.Overview, m rules.Metric) string {
	if m == rules.Growth || m == rules.ListenDrops {
		return string(m) + " not known" // by one scan
	}
	return string(m) + " " + g.Text(m)
}

func plannedOf(f *engine.Forecast) planned {
	age := track.Age{InState: f.InStateFor, Idle: f.IdleFor, Silent: f.SilentFor, Known: true, Exact: !f.Bound}
	return planned{
		Rule: f.Rule, Action: f.Kind.Name, DryRun: f.DryRun, DueIn: sockettable.Seconds(max(0, f.In)), Not: whyNot(f), KeptBy: string(f.Not), Reason: action.Wanted(&f.Grounds, &f.Socket, f.Bound),
		Object: sockettable.ObjectOf(&f.Socket, age, f.Holders),
	}
}

// PrintJSON prints an object for each action and each group.
func (p *Plan) PrintJSON(out io.Writer) error {
	var objects []any
	for i := range p.actions {
		objects = append(objects, plannedOf(&p.actions[i]))
	}
	for i := range p.groups {
		for j := range p.groups[i].Groups {
			objects = append(objects, groupOf(&p.groups[i], &p.groups[i].Groups[j]))
		}
	}
	return term.JSONOf(out, objects)
}

// mostRows is how many sockets of a rule are printed that are due now, that are due later,
// and that are left alone for one reason; the others are counted.
const mostRows = 10

// Print prints the plan rule by rule, in lines of so many cells at most, where that can
// be; 0 is no bound.
func (p *Plan) Print(out io.Writer, cells int) error {
	pods := slices.ContainsFunc(p.actions, func(f engine.Forecast) bool { return podOf(&f) != "" })
	for i := range p.set.Rules {
		r := &p.set.Rules[i]
		if i > 0 {
			fmt.Fprintln(out)
		}
		table := p.newTable(pods)
		count := p.addRows(table, r, pods)
		mode := ""
		switch {
		case !r.Enabled:
			mode = ", disabled"
		case r.DryRun:
			mode = ", dry run"
		}
		if len(r.When) == 0 {
			fmt.Fprintf(out, "%s: %s%s\n", r.Name, count.text(), mode)
		} else if err := printGroups(out, r, &p.groups[i], mode, cells); err != nil {
			return err
		}
		if err := printRows(out, table, cells); err != nil {
			return err
		}
		if count.more > 0 {
			fmt.Fprintf(out, "  and %d more, which -o json has\n", count.more)
		}
	}
	return nil
}

// newTable returns a table of sockets, of which some are held in pods.
func (p *Plan) newTable(pods bool) *term.Table {
	heads := []string{"  ACTION", "LOCAL", "PEER", "HELD BY"}
	if pods {
		heads = append(heads, "POD")
	}
	if heads = append(heads, "BECAUSE", "WHEN"); p.several {
		heads = append(heads, "NETNS")
	}
	table := term.NewTable(heads...)
	table.Columns[1].Spare, table.Columns[3].Spare = 1, 3
	if pods {
		table.Columns[4].Spare = 2
	}
	return table
}

// podOf is the pod that a socket is held in; empty: in none, or that is not known.
func podOf(f *engine.Forecast) string { return sockettable.OwnerOf(f.Holders).PodName() }

// planCount counts what a rule would do.
type planCount struct {
	now, later int
	left       map[match.Reason]int // alone, by what keeps them
	more       int                  // that are not printed
}

// addRows adds the sockets of a rule to a table: those that are due, the next first, and
// then those that are left alone.
func (p *Plan) addRows(table *term.Table, r *rules.Rule, pods bool) planCount {
	c := planCount{left: make(map[match.Reason]int)}
	for _, left := range []bool{false, true} {
		for j := range p.actions {
			f := &p.actions[j]
			if f.Rule != r.Name || (f.Not != "") != left {
				continue
			}
			if c.add(f) > mostRows {
				c.more++
				continue
			}
			table.Row("  "+f.Kind.Name, f.Socket.Zoned(f.Socket.Src).String(), f.Socket.Zoned(f.Socket.Dst).String(), sockettable.Holders(f.Holders))
			if pods {
				table.Row(cmp.Or(podOf(f), "-"))
			}
			table.Row(action.Wanted(&f.Grounds, &f.Socket, f.Bound), when(f))
			if p.several {
				table.Row(cmp.Or(f.Socket.NetnsName(), sockettable.Netns(f.Socket.ID.Netns), "-"))
			}
		}
	}
	return c
}

// add counts one, and returns how many of its sort there are so far.
func (c *planCount) add(f *engine.Forecast) int {
	switch {
	case f.Not != "":
		c.left[f.Not]++
		return c.left[f.Not]
	case f.In > 0:
		c.later++
		return c.later
	default:
		c.now++
		return c.now
	}
}

// text is the count in words, the most frequent reason first.
func (c *planCount) text() string {
	var reasons []string
	n := 0
	byCount := func(a, b match.Reason) int { return cmp.Or(cmp.Compare(c.left[b], c.left[a]), cmp.Compare(a, b)) }
	for _, reason := range slices.SortedFunc(maps.Keys(c.left), byCount) {
		n += c.left[reason]
		reasons = append(reasons, fmt.Sprintf("%s %d", strings.ReplaceAll(string(reason), "_", " "), c.left[reason]))
	}
	text := fmt.Sprintf("%s now, %d later, %d left alone", term.Count(c.now, "action"), c.later, n)
	if len(reasons) > 0 {
		text += " (" + strings.Join(reasons, ", ") + ")"
	}
	return text
}

// printRows prints a table that has rows.
func printRows(out io.Writer, table *term.Table, cells int) error {
	if table.Empty() {
		return nil
	}
	table.Wraps = true
	return table.Print(out, cells)
}

// when says when an action falls due, or why it does not.
func when(f *engine.Forecast) string {
	switch {
	case f.Not != "":
		return "not: " + whyNot(f)
	case f.In <= 0:
		return "now"
	case f.Bound:
		return "in ≤" + term.Short(f.In)
	default:
		return "in " + term.Short(f.In)
	}
}

// whyNot says why an action would not be done all the same, or "".
func whyNot(f *engine.Forecast) string {
	switch f.Not {
	case match.NotPossible:
		return action.Missing(f.Kind, f.Err)
	case match.RuleLimit:
		return "the limit of the rule lets others go first"
	case match.LimitOfAll:
		return "the limit of all rules lets others go first"
	default:
		return action.Words(f.Not)
	}
}

// printGroups prints what the rule fires at, and how near its groups are to that.
func printGroups(out io.Writer, r *rules.Rule, now *engine.RuleOverview, mode string, cells int) error {
	conditions := make([]string, len(r.When))
	for i, c := range r.When {
		conditions[i] = c.String()
	}
	long := ""
	if r.For > 0 {
		long = " for " + term.Short(r.For)
	}
	match, all := fmt.Sprintf("; now %d sockets match", now.Sockets), "all sockets"
	switch {
	case r.Whole():
		match, all = "", "all"
	case now.Unseen:
		match = "; now it cannot be told who holds the sockets (sockdog doctor says why)"
	case now.Sockets == 1:
		match = "; now 1 socket matches"
	}
	fmt.Fprintf(out, "%s: fires when %s%s%s%s\n", r.Name, strings.Join(conditions, " and "), long, match, mode)
	table := term.NewTable("  GROUP", "VALUE", "PHASE")
	for i := range now.Groups {
		g := &now.Groups[i]
		name := make([]string, len(g.Group))
		for j, l := range g.Group {
			name[j] = l.Name + "=" + l.Value
		}
		var values []string
		for _, c := range r.When {
			value := valueOf(g, c.Metric)
			if !slices.Contains(values, value) {
				values = append(values, value)
			}
		}
		table.Row("  "+cmp.Or(strings.Join(name, " "), all), strings.Join(values, ", "), string(g.Phase))
	}
	return printRows(out, table, cells)
}
