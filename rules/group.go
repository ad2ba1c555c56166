package rules

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/sockdog/sockdog/rules/ssfilter"
)

// GroupKey is a property of sockets by which a rule groups them.
type GroupKey string

// The keys of group_by.
const (
	ByDst   GroupKey = "dst"
	ByDport GroupKey = "dport"
	BySrc   GroupKey = "src"
	BySport GroupKey = "sport"
	ByState GroupKey = "state"
	ByUser  GroupKey = "user"
)

// laterGroupKeys need to know who holds each socket, or watch other namespaces.
var laterGroupKeys = []string{"process", "pid", "unit", "container", "pod", "netns"}

var groupKeyWords = oneOf("group_by", ByDst, ByDport, BySrc, BySport, ByState, ByUser)

var groupKeyOf = value[GroupKey]{
	read: func(p *parser, n *yaml.Node) GroupKey {
		if s := target(n); s.Kind == yaml.ScalarNode && slices.Contains(laterGroupKeys, s.Value) {
			p.report(n, "group_by: %s is not supported yet", s.Value)
			return ""
		}
		return groupKeyWords.read(p, n)
	},
	schema: groupKeyWords.schema,
}

// Metric is what a condition measures of a group of sockets.
type Metric string

// The metrics.
const (
	Count        Metric = "count"         // sockets that match
	Growth       Metric = "growth"        // sockets first seen, per minute, over five minutes
	PortUsage    Metric = "port_usage"    // percent of the unreserved ephemeral ports in use, in any state, per src, dst and dport; the highest
	BacklogUsage Metric = "backlog_usage" // percent of an accept queue's limit in use, on listening sockets; the highest
)

// metrics say how each is written.
var metrics = []struct {
	name Metric
	unit string // after the number: "", "/m" or "%"
	most float64
}{
	{Count, "", math.MaxUint32},
	{Growth, "/m", math.MaxUint32},
	{PortUsage, "%", 100},
	{BacklogUsage, "%", 1000}, // a queue may hold one more than its limit, and the limit may be 0
}

// Condition compares a metric of a group with a number, in the metric's unit.
type Condition struct {
	Metric Metric
	Op     Op
	Number float64
}

// Holds reports whether the value of the metric compares as the condition says.
func (c Condition) Holds(value float64) bool { return holds(value, c.Op, c.Number) }

// Unit is what stands after a number of the metric: "/m", "%", or nothing.
func (m Metric) Unit() string {
	for _, known := range metrics {
		if known.name == m {
			return known.unit
		}
	}
	return ""
}

// String is the condition as a rule says it.
func (c Condition) String() string {
	return fmt.Sprintf("%s %s %s%s", c.Metric, c.Op, strconv.FormatFloat(c.Number, 'f', -1, 64), c.Metric.Unit())
}

var condition = scalar("a condition", schema{
	"type": "string", "pattern": `^(count|growth|port_usage|backlog_usage) *(<=|>=|!=|==|<|>|=) *[0-9]+(\.[0-9]+)? *(%|/m)?$`,
	"examples": []string{"count > 20000", "growth > 10/m", "port_usage > 80%"},
}, parseCondition)

// parseCondition reads METRIC OP NUMBER, with the metric's unit.
func parseCondition(text string) (Condition, error) {
	at := strings.IndexAny(text, "<>=!")
	if at < 0 {
		return Condition{}, fmt.Errorf("%q is not a condition: write a metric, an operator and a number, such as count > 20000", text)
	}
	name, rest := strings.TrimSpace(text[:at]), text[at:]
	names := make([]string, 0, len(metrics))
	for _, m := range metrics {
		names = append(names, string(m.name))
		if string(m.name) != name {
			continue
		}
		c := Condition{Metric: m.name}
		for _, o := range operators {
			if after, ok := strings.CutPrefix(rest, o.text); ok {
				c.Op, rest = o.op, strings.TrimSpace(after)
				break
			}
		}
		if c.Op == "" {
			return c, fmt.Errorf("%q has no operator: write one of <, <=, >, >=, = and !=", text)
		}
		digits, found := strings.CutSuffix(rest, m.unit)
		digits = strings.TrimSpace(digits)
		if !found || !isDecimal(digits) {
			return c, badMeasure(m.name, m.unit, rest)
		}
		n, err := strconv.ParseFloat(digits, 64)
		if err != nil || n > m.most {
			return c, fmt.Errorf("%s is out of range: %s is at most %.0f%s", rest, m.name, m.most, m.unit)
		}
		if m.name == Count && n != math.Trunc(n) {
			return c, fmt.Errorf("%s is not a whole number of sockets", rest)
		}
		c.Number = n
		return c, nil
	}
	if name == "fd_usage" {
		return Condition{}, fmt.Errorf("fd_usage is not supported yet")
	}
	return Condition{}, fmt.Errorf("%s", unknown("metric", name, "a condition", names))
}

func badMeasure(m Metric, unit, text string) error {
	switch unit {
	case "":
		return fmt.Errorf("%s is a number of sockets, without a unit: %q is none", m, text)
	case "%":
		return fmt.Errorf("%s is a percentage: write a number with %% after it, not %q", m, text)
	}
	return fmt.Errorf("%s is sockets a minute: write a number with /m after it, not %q", m, text)
}

// span is the values of a metric that conditions allow.
type span struct {
	least, most  float64
	above, below bool // least, or most, is itself outside
}

// spanOf is where all conditions on a metric hold. One with != counts only where it
// leaves nothing.
func spanOf(conditions []Condition, m Metric) span {
	s := span{most: math.Inf(1)}
	for _, known := range metrics {
		if known.name == m {
			s.most = known.most
		}
	}
	for _, c := range conditions {
		if c.Metric != m || c.Op == NotEqual {
			continue
		}
		if c.Op == Greater || c.Op == GreaterEqual || c.Op == Equal {
			if c.Number > s.least || c.Number == s.least && c.Op == Greater {
				s.least, s.above = c.Number, c.Op == Greater
			}
		}
		if c.Op == Less || c.Op == LessEqual || c.Op == Equal {
			if c.Number < s.most || c.Number == s.most && c.Op == Less {
				s.most, s.below = c.Number, c.Op == Less
			}
		}
	}
	if m == Count { // whole numbers
		if s.above {
			s.least, s.above = s.least+1, false
		}
		if s.below {
			s.most, s.below = s.most-1, false
		}
	}
	for _, c := range conditions {
		if c.Metric == m && c.Op == NotEqual && s.least == c.Number && s.most == c.Number {
			s.above = true
		}
	}
	return s
}

// empty reports whether no value is in the span.
func (s span) empty() bool {
	return s.least > s.most || s.least == s.most && (s.above || s.below)
}

// checkGroups holds a rule about groups to what its keys demand of each other,
// and a rule about single sockets to having none of them.
func (p *parser) checkGroups(d *draft) {
	if !d.given.has("when") {
		for _, name := range []string{"group_by", "until", "for", "cooldown"} {
			switch {
			case !d.given.wrote(name): // a misspelt key has been reported
			case name == "for":
				p.report(d.given[name], "for needs when, a condition on groups of sockets: how long a single socket must be stuck is said in match, by in_state_for, idle_for or stalled_for")
			default:
				p.report(d.given[name], "%s needs when: without it the rule is about single sockets, not groups", name)
			}
		}
		return
	}
	seen := map[GroupKey]bool{}
	for _, k := range d.GroupBy {
		if k != "" && seen[k] {
			p.report(d.given["group_by"], "group_by names %s twice", k)
		}
		seen[k] = true
	}
	for _, m := range metrics {
		if spanOf(d.When, m.name).empty() {
			p.report(d.given["when"], "when can never hold: no value of %s satisfies all of it", m.name)
		}
		if spanOf(d.Until, m.name).empty() {
			p.report(d.given["until"], "until can never hold: no value of %s satisfies all of it: the group would fire for ever", m.name)
		}
	}
	p.checkOverlap(d)
	p.checkMetrics(d)
}

// checkOverlap refuses an until that holds wherever when does: the group would
// end as soon as it fired.
func (p *parser) checkOverlap(d *draft) {
	inside := len(d.Until) > 0
	for _, c := range d.Until {
		when, until := spanOf(d.When, c.Metric), spanOf(d.Until, c.Metric)
		inside = inside && c.Metric != "" && c.Op != NotEqual && !when.empty() && until.least <= when.least && when.most <= until.most &&
			!(until.above && until.least == when.least && !when.above) && !(until.below && until.most == when.most && !when.below)
	}
	for _, c := range d.When {
		inside = inside && c.Metric != ""
	}
	if inside {
		p.report(d.given["until"], "until holds wherever when does: a group would end as soon as it fired; write until for when it is over, such as a lower threshold")
	}
}

// checkMetrics holds the match and group_by of a rule to what its metrics can tell.
func (p *parser) checkMetrics(d *draft) {
	for _, c := range slices.Concat(d.When, d.Until) {
		switch c.Metric {
		case PortUsage:
			for _, k := range d.GroupBy {
				if k != BySrc && k != ByDst && k != ByDport && k != "" {
					p.report(d.given["group_by"], "port_usage is about the local ports towards a peer: group by src, dst and dport, not by %s", k)
				}
			}
		case BacklogUsage:
			for _, s := range d.match {
				if s.States != 1<<ssfilter.Listening {
					p.report(s.at, "backlog_usage is about listening sockets: write state: listening here")
				}
			}
		}
	}
}

var groupFields = []key[draft]{
	field("group_by", "one group for each combination of these: dst, dport, src, sport, state, user; absent: one group",
		anyOf(groupKeyOf), func(d *draft) *[]GroupKey { return &d.GroupBy }),
	field("when", "conditions on a group, which must all hold: METRIC OP NUMBER, such as count > 20000, growth > 10/m, port_usage > 80%",
		anyOf(condition), func(d *draft) *[]Condition { return &d.When }),
	field("until", "when a firing group ends; absent: when it no longer satisfies when",
		anyOf(condition), func(d *draft) *[]Condition { return &d.Until }),
	field("for", "how long when must hold before the group fires",
		duration, func(d *draft) *time.Duration { return &d.For }),
	field("cooldown", "how long after a firing what runs once per firing does not run again",
		duration, func(d *draft) *time.Duration { return &d.Cooldown }),
}
