package rules

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sockdog/sockdog/rules/internal/document"
	"github.com/sockdog/sockdog/rules/internal/message"
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
	ByNetns GroupKey = "netns"
	// Of several processes that hold a socket, it is the one that started first.
	ByProcess GroupKey = "process" // its name
	ByPID     GroupKey = "pid"
	// Where that one belongs:
	ByUnit      GroupKey = "unit"
	ByContainer GroupKey = "container"
	ByPod       GroupKey = "pod"
)

// ofHolders are those that tell of who holds each socket.
var ofHolders = []GroupKey{ByProcess, ByPID, ByUnit, ByContainer, ByPod}

// GroupKeys are all of them.
var GroupKeys = slices.Concat([]GroupKey{ByDst, ByDport, BySrc, BySport, ByState, ByUser, ByNetns}, ofHolders)

var groupKey = document.OneOf("group_by", GroupKeys...)

// Metric is what a condition measures of a group of sockets.
type Metric string

// The metrics.
const (
	Count        Metric = "count"         // sockets that match
	Growth       Metric = "growth"        // sockets first seen, per minute, over five minutes
	PortUsage    Metric = "port_usage"    // percent of the unreserved ephemeral ports that a further connect(2) could not have, per src, dst and dport; the highest
	BacklogUsage Metric = "backlog_usage" // percent of an accept queue's limit in use, on listening sockets; the highest
	FDUsage      Metric = "fd_usage"      // percent of RLIMIT_NOFILE that a process has open which holds a socket; the highest

	// Of a network namespace or the host as a whole:
	ListenDrops Metric = "listen_drops" // connections that listening sockets dropped, over the last minute
	Orphans     Metric = "orphans"      // percent of tcp_max_orphans, of the host
	TCPMemory   Metric = "tcp_memory"   // percent of the third value of tcp_mem, of the host
)

// OfSockets reports whether the metric is measured of sockets, and not of a network
// namespace or the host as a whole.
func (m Metric) OfSockets() bool { return m != ListenDrops && m != Orphans && m != TCPMemory }

// metric is how one is written: a number, and after it the unit.
type metric struct {
	name                   Metric
	unit                   string
	most                   float64
	measure, form, example string
}

var metrics = []metric{
	{Count, "", math.MaxUint32, "number of sockets", "digits alone", "count > 20000"},
	{Growth, "/m", math.MaxUint32, "number of sockets a minute", "a number with /m after it", "growth > 10/m"},
	{PortUsage, "%", 100, "percentage", "a number with % after it", "port_usage > 80%"},
	// A queue may hold one more than its limit, and the limit may be 0.
	{BacklogUsage, "%", 1000, "percentage", "a number with % after it", "backlog_usage > 80%"},
	// A limit may be lowered under what is open.
	{FDUsage, "%", 1000, "percentage", "a number with % after it", "fd_usage > 80%"},
	{ListenDrops, "/m", math.MaxUint32, "number of connections a minute", "a number with /m after it", "listen_drops > 10/m"},
	// The kernel may let them go beyond their limits for a while.
	{Orphans, "%", 1000, "percentage", "a number with % after it", "orphans > 80%"},
	{TCPMemory, "%", 1000, "percentage", "a number with % after it", "tcp_memory > 80%"},
}

// Condition compares a metric of a group with a number, in the metric's unit.
type Condition struct {
	Metric Metric
	Op     Op
	Number float64
}

// Holds reports whether the value of the metric compares as the condition says.
func (c Condition) Holds(value float64) bool { return holds(value, c.Op, c.Number) }

// metricOf returns how a metric is written; the zero value for none.
func metricOf(name Metric) metric {
	i := slices.IndexFunc(metrics, func(m metric) bool { return m.name == name })
	if i < 0 {
		return metric{}
	}
	return metrics[i]
}

// Unit is what stands after a number of the metric: "/m", "%", or nothing.
func (m Metric) Unit() string { return metricOf(m).unit }

// String is the condition as a rule says it.
func (c Condition) String() string {
	return fmt.Sprintf("%s %s %s%s", c.Metric, c.Op, strconv.FormatFloat(c.Number, 'f', -1, 64), c.Metric.Unit())
}

var condition = document.Scalar("a condition such as count > 20000", parseCondition)

// parseCondition reads METRIC OP NUMBER, with the metric's unit.
func parseCondition(text string) (Condition, error) {
	at := strings.IndexAny(text, comparing)
	name := strings.TrimSpace(text[:max(at, 0)])
	if at < 0 || name == "" || document.IsNumber(name) || strings.ContainsAny(name, " \t") {
		return Condition{}, message.Errorf("%q is not a condition: write a metric, an operator and a number, such as count > 20000", text)
	}
	if m := metricOf(Metric(name)); m.name != "" {
		return m.parse(text[at:])
	}
	var names []string
	for _, m := range metrics {
		names = append(names, string(m.name))
	}
	return Condition{}, message.Unknown("metric", name, "a condition", names)
}

// parse reads what follows the metric's name.
func (m metric) parse(text string) (Condition, error) {
	op, number, err := cutOperator(text)
	if err != nil {
		return Condition{}, err
	}
	if strings.ContainsAny(number, comparing) {
		if strings.Contains(text, " or ") {
			return Condition{}, errors.New("this is more than one condition, and those of a list must all hold: write a rule for each")
		}
		return Condition{}, errors.New("this is more than one condition: write a list of them, such as [count > 5, growth > 3/m], which must all hold")
	}
	digits, found := strings.CutSuffix(number, m.unit)
	digits = strings.TrimSpace(digits)
	if !found || !document.IsDecimal(digits) {
		return Condition{}, message.Errorf("%q is not a %s: write %s, such as %s", number, m.measure, m.form, m.example)
	}
	if err := document.Ambiguous(digits); err != nil {
		return Condition{}, err
	}
	n, err := strconv.ParseFloat(digits, 64)
	if err != nil || n > m.most {
		return Condition{}, message.Errorf("%s is out of range: %s is at most %.0f%s", number, m.name, m.most, m.unit)
	}
	if m.name == Count && n != math.Trunc(n) {
		return Condition{}, message.Errorf("%s is not a whole number of sockets", number)
	}
	return Condition{Metric: m.name, Op: op, Number: n}, nil
}

// values are values of a metric from least on, of each kind that conditions tell apart:
// what holds of these holds of all.
func (m metric) values(least float64, conditions []document.Placed[Condition]) []float64 {
	all := []float64{least, m.most}
	for _, c := range conditions {
		if c.Value.Metric != m.name {
			continue
		}
		n := c.Value.Number
		below, above := math.Nextafter(n, -1), math.Nextafter(n, math.Inf(1))
		if m.name == Count { // whole numbers
			below, above = n-1, n+1
		}
		all = append(all, below, n, above)
	}
	return slices.DeleteFunc(all, func(v float64) bool { return v < least || v > m.most })
}

// holdAll reports whether a value of the metric meets those conditions that are about it.
func (m metric) holdAll(conditions []document.Placed[Condition], value float64) bool {
	return !slices.ContainsFunc(conditions, func(c document.Placed[Condition]) bool {
		return c.Value.Metric == m.name && !c.Value.Holds(value)
	})
}

// canHold reports whether a value of the metric, no less than least, meets the conditions.
func (m metric) canHold(least float64, conditions []document.Placed[Condition]) bool {
	return slices.ContainsFunc(m.values(least, conditions), func(v float64) bool { return m.holdAll(conditions, v) })
}

// checkGroups holds a rule about groups to what its keys demand of each other,
// and a rule about single sockets to having none of them.
func checkGroups(r *document.Reader, d *draft) {
	d.when, d.until = few(r, d.when), few(r, d.until)
	seen := map[GroupKey]bool{}
	d.groupBy = slices.DeleteFunc(d.groupBy, func(k document.Placed[GroupKey]) bool {
		again := seen[k.Value]
		seen[k.Value] = true
		if again && k.Value != "" && d.given.Has("when") {
			r.Report(k.At, "group_by names %s twice: remove one", k.Value)
		}
		return again
	})
	if !d.given.Has("when") {
		for _, name := range []string{"group_by", "until", "for"} {
			switch {
			case !d.given.Wrote(name): // a misspelt key has been reported
			case name == "for":
				r.Report(d.given[name], "for needs when, a condition on groups of sockets: for single sockets, put in_state_for, idle_for, stalled_for or silent_for into match")
			default:
				r.Report(d.given[name], "%s needs when: without it the rule is about single sockets, not groups", name)
			}
		}
		return
	}
	for _, m := range metrics {
		checkHolds(r, d.when, m, d.least(m.name), "when can never hold: no value of %s satisfies %s")
		checkHolds(r, d.until, m, 0, "until can never hold, and the group would fire forever: no value of %s satisfies %s")
	}
	if d.untilCovers() {
		r.Report(d.given["until"], "until holds whenever when does: a group would end as soon as it fires; choose a lower threshold, say")
	}
	checkMetrics(r, d)
}

// mostConditions is how many conditions when and until may hold: each is compared with
// those before it.
const mostConditions = 16

// few returns the conditions, and reports that there are too many.
func few(r *document.Reader, conditions []document.Placed[Condition]) []document.Placed[Condition] {
	if len(conditions) <= mostConditions {
		return conditions
	}
	r.Report(conditions[mostConditions].At, "this is one condition too many: a list holds up to %d", mostConditions)
	return conditions[:mostConditions]
}

// least is the least value of a metric that when is asked about. A group by
// properties is there while a socket has them, and a while longer where what is
// measured is not of the sockets of this instant alone.
func (d *draft) least(m Metric) float64 {
	beyond := func(c document.Placed[Condition]) bool {
		return c.Value.Metric == "" || c.Value.Metric == Growth || c.Value.Metric == PortUsage
	}
	if m == Count && d.given.Has("group_by") && !slices.ContainsFunc(d.when, beyond) {
		return 1
	}
	return 0
}

// checkHolds reports the first condition on a metric that leaves it no value, by
// itself or together with those before it.
func checkHolds(r *document.Reader, conditions []document.Placed[Condition], m metric, least float64, format string) {
	if m.canHold(least, conditions) {
		return
	}
	i := 0
	for m.canHold(least, conditions[:i+1]) {
		i++
	}
	switch at, alone := conditions[i].At, conditions[i:i+1]; {
	case m.canHold(least, alone):
		r.Report(at, format, m.name, "both this and the conditions before it")
	case !m.canHold(0, alone):
		r.Report(at, format, m.name, "this")
	default:
		r.Report(at, "when can never hold: a group of group_by has at least one socket; leave group_by out to watch for too few")
	}
}

// untilCovers reports whether until holds wherever when does: then a group would end as
// soon as it fired.
func (d *draft) untilCovers() bool {
	if len(d.until) == 0 || !readable(d.when) || !readable(d.until) {
		return false
	}
	for _, c := range d.until {
		m, least := metricOf(c.Value.Metric), d.least(c.Value.Metric)
		escapes := func(v float64) bool { return m.holdAll(d.when, v) && !m.holdAll(d.until, v) }
		if c.Value.Op == NotEqual || !m.canHold(least, d.when) || slices.ContainsFunc(m.values(least, slices.Concat(d.when, d.until)), escapes) {
			return false
		}
	}
	return true
}

// untilMeets reports whether until can hold while when does.
func (d *draft) untilMeets() bool {
	both := slices.Concat(d.when, d.until)
	apart := func(m metric) bool { return !m.canHold(d.least(m.name), both) }
	return len(d.when) > 0 && len(d.until) > 0 && readable(both) && !slices.ContainsFunc(metrics, apart)
}

// untilEmpty reports whether until holds where there is no socket.
func (d *draft) untilEmpty() bool {
	return !slices.ContainsFunc(d.until, func(c document.Placed[Condition]) bool { return c.Value.Metric != "" && !c.Value.Holds(0) })
}

// readable reports whether all of the conditions could be read.
func readable(conditions []document.Placed[Condition]) bool {
	return !slices.ContainsFunc(conditions, func(c document.Placed[Condition]) bool { return c.Value.Metric == "" })
}

// checkMetrics holds the match and group_by of a rule to what its metrics can tell.
func checkMetrics(r *document.Reader, d *draft) {
	seen := map[Metric]bool{}
	for _, c := range slices.Concat(d.when, d.until) {
		m := c.Value.Metric
		if seen[m] {
			continue
		}
		seen[m] = true
		switch m {
		case PortUsage:
			for _, by := range d.groupBy {
				if k := by.Value; k != BySrc && k != ByDst && k != ByDport && k != ByNetns && k != "" {
					r.Report(by.At, "port_usage is about the local ports towards a peer: group by src, dst, dport and netns, not by %s", k)
				}
			}
		case BacklogUsage:
			for _, s := range d.match {
				if s.States != 1<<ssfilter.Listening {
					r.Report(s.at, "backlog_usage is about listening sockets: write state: listening here")
				}
			}
		}
	}
}

var groupFields = []document.Key[draft]{
	document.Field("group_by", document.AnyOf(document.WithPlace(document.Single(groupKey))), func(d *draft) *[]document.Placed[GroupKey] { return &d.groupBy }),
	document.Field("when", document.AnyOf(document.WithPlace(condition)), func(d *draft) *[]document.Placed[Condition] { return &d.when }),
	document.Field("until", document.AnyOf(document.WithPlace(condition)), func(d *draft) *[]document.Placed[Condition] { return &d.until }),
	document.Field("for", duration, func(d *draft) *time.Duration { return &d.For }),
	document.Field("cooldown", duration, func(d *draft) *time.Duration { return &d.Cooldown }),
}
