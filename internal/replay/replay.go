// Package replay says what rules would have done over a recording: it runs the engine that
// the daemon runs in simulated time, on the scans that were made then.
package replay

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/sockdog/sockdog/internal/action"
	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/engine/track"
	"github.com/sockdog/sockdog/internal/recording"
	"github.com/sockdog/sockdog/internal/sim/runner"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/sockettable"
	"github.com/sockdog/sockdog/internal/term"
	"github.com/sockdog/sockdog/rules"
)

// Result is what a set of rules would have done.
type Result struct {
	Header  recording.Header
	Began   time.Time // of the first scan, by the wall clock
	Took    time.Duration
	Scans   int
	Failed  int // that failed while the recording was made
	Sockets int // in a scan, at most
	Events  []Event
	Damage  error // the recording is not whole: the result is about what comes before; nil: it is

	set    *rules.Set
	doubts []string
}

// Event is something that would have been done, held back, or said.
type Event struct {
	At     time.Duration // since the first scan
	Wall   time.Time
	Scan   int           // number of the scan that it follows from
	Late   time.Duration // how long before it fell due already, which no scan showed; 0: it did not
	Rule   string
	Action *rules.Kind
	DryRun bool // the rule is one of a dry run
	Result engine.Result
	Reason string

	sock    sock.Key
	Socket  *sockettable.Object // nil: it is about a group
	Holders string              // of the socket, as in tables

	Group   []subject.Label
	Sockets int // of the group, at most
}

// What an alert does, as a result.
const (
	firing   engine.Result = "firing"
	resolved engine.Result = "resolved"
)

// ErrEmpty says that a recording has no whole scan.
var ErrEmpty = errors.New("the recording has no whole scan")

// Run replays a recording. What is not possible on the kernel of it is not done.
func Run(file io.Reader, set *rules.Set, allowed func(recording.Header) match.Capabilities) (*Result, error) {
	reader, err := recording.NewReader(file)
	if err != nil {
		return nil, err
	}
	t := newTable(reader)
	if reader.Scans() == 0 {
		if t.err == nil {
			return nil, ErrEmpty
		}
		return nil, fmt.Errorf("%w: %w", ErrEmpty, t.err)
	}
	p := player{table: t, began: t.now, result: &Result{Header: reader.Header, set: set}}
	if !reader.Header.Holders {
		set = withoutCanaries(set)
	}
	p.run = runner.New(set, t, t.now, reader.Header.Precision, engine.Restored{})
	p.run.Allow(allowed(reader.Header))
	r := p.result
	r.Began = t.scan.Wall
	for {
		p.run.Until(t.scan.Got.Add(moment))
		p.take()
		if t.next == sock.Never {
			break
		}
		p.run.Until(t.next)
	}
	r.Took, r.Scans, r.Sockets, r.Failed, r.Damage = t.scan.Got.Sub(p.began), reader.Scans(), t.most, reader.Failed, t.err
	r.doubts = doubts(set, &r.Header, t)
	return r, nil
}

// withoutCanaries returns the rules without the trials with each process, of which the real run
// would know, and which would slow down a kill where nobody does.
func withoutCanaries(set *rules.Set) *rules.Set {
	without := *set
	without.Rules = slices.Clone(set.Rules)
	for i := range without.Rules {
		r := &without.Rules[i]
		r.Then = slices.Clone(r.Then)
		for j := range r.Then {
			r.Then[j].Canary = nil
		}
	}
	return &without
}

// player is a replay under way.
type player struct {
	table  *table
	run    *runner.Run
	began  sock.Instant
	result *Result
}

// take takes what was done since the last time.
func (p *player) take() {
	begin := len(p.result.Events)
	for i := range p.run.Acts {
		p.result.Events = append(p.result.Events, p.act(&p.run.Acts[i]))
	}
	for i := range p.run.Alerts {
		p.result.Events = append(p.result.Events, p.alert(&p.run.Alerts[i]))
	}
	for i := range p.run.GroupActs {
		p.result.Events = append(p.result.Events, p.groupAct(&p.run.GroupActs[i]))
	}
	p.run.Acts, p.run.Alerts, p.run.GroupActs = p.run.Acts[:0], p.run.Alerts[:0], p.run.GroupActs[:0]
	slices.SortStableFunc(p.result.Events[begin:], func(a, b Event) int { return cmp.Compare(a.At, b.At) })
}

// event returns one of an instant, which is right after the last scan.
func (p *player) event(at sock.Instant, rule string) Event {
	since := at.Sub(p.table.scan.Got)
	return Event{At: at.Sub(p.began).Truncate(time.Millisecond), Wall: p.table.scan.Wall.Add(since), Scan: p.table.reader.Scans(), Rule: rule}
}

func (p *player) act(a *runner.Act) Event {
	e := p.event(a.At, a.Rule)
	e.Action, e.DryRun, e.Result, e.Reason = a.Kind, a.DryRun, would(a.Result), action.Why(&a.Action)
	if late := a.At.Sub(a.Due); a.Due != 0 && e.Result == engine.Would && late > moment {
		e.Late = late.Truncate(time.Millisecond)
	}
	if a.Socket.ID.Cookie != 0 {
		age := track.Age{InState: a.InStateFor, Idle: a.IdleFor, Silent: a.SilentFor, Known: true}
		e.sock, e.Socket, e.Holders = a.Socket.ID.Key(), new(sockettable.ObjectOf(&a.Socket, age, a.Holders)), sockettable.Holders(a.Holders)
	}
	return e
}

// done reports whether something would have been done or said, and not only held back.
func (e *Event) done() bool {
	return e.Result == engine.Would || e.Result == firing || e.Result == resolved
}

// would is a result as a replay tells it, which does nothing.
func would(r engine.Result) engine.Result {
	if r == engine.Done {
		return engine.Would
	}
	return r
}

func (p *player) groupAct(a *runner.GroupAct) Event {
	e := p.event(a.At, a.Rule)
	e.Action, e.DryRun, e.Result, e.Reason, e.Group, e.Sockets = a.Action.Kind, a.DryRun, would(a.Result), action.WhyGroup(&a.GroupAction), a.Group, a.Count
	return e
}

func (p *player) alert(a *runner.Alert) Event {
	e := p.event(a.At, a.Rule)
	e.Action, e.Result, e.Group, e.Sockets = rules.Alert, firing, a.Group, a.Peak
	if a.Ended != 0 {
		e.Result = resolved
	}
	values := make([]string, len(a.When))
	for i, c := range a.When {
		values[i] = fmt.Sprintf("%s %s (fires at %s)", c.Metric, a.Text(c.Metric), c)
	}
	e.Reason = strings.Join(values, " and ")
	return e
}

// Doubts are what the recording cannot tell that the rules ask for.
func (r *Result) Doubts() []string { return r.doubts }

// doubts says of which rules a recording cannot tell what they would do.
func doubts(set *rules.Set, h *recording.Header, t *table) (all []string) {
	program := match.Compile(set)
	for i := range program.Rules {
		r := &program.Rules[i]
		if !r.Enabled {
			continue
		}
		of := slices.Concat(r.Match, r.Exclude)
		for _, why := range lacks(of, h, r.NeedsHolders) {
			all = append(all, fmt.Sprintf("rule %s %s", r.Name, why))
		}
		if r.Measures(rules.PortUsage) && !t.hadPorts {
			all = append(all, fmt.Sprintf("rule %s asks for port_usage, and the recording has no port ranges", r.Name))
		}
	}
	for _, why := range lacks(set.Protect, h, match.NeedHolders(set.Protect)) {
		all = append(all, "protect "+why+"; what may be protected is left alone")
	}
	if n := len(t.unsure); n > 0 && h.Holders && program.NeedsHolders {
		all = append(all, fmt.Sprintf("of %s the recording does not tell for certain by whom they were held, since not every process could be read: rules that ask for that leave them alone", term.Count(n, "socket")))
	}
	if set.Settings.Namespaces == rules.AllNamespaces && !h.All {
		all = append(all, "the rules watch all network namespaces, and the recording has one: sockdog record --namespaces has all")
	}
	if set.Settings.Namespaces == rules.SelfNamespace && h.All {
		all = append(all, "the rules watch one network namespace, and the recording has several: all of them count here")
	}
	return all
}

// lacks says what matches ask for that the recording does not have.
func lacks(matches []rules.Match, h *recording.Header, holders bool) (all []string) {
	matches = slices.DeleteFunc(slices.Clone(matches), func(m rules.Match) bool { return m.IfKnown }) // which do without
	asks := func(of func(m *rules.Match) int) bool {
		return slices.ContainsFunc(matches, func(m rules.Match) bool { return of(&m) > 0 })
	}
	masked := func(what string) bool { return slices.Contains(h.Masked, what) }
	if asks(func(m *rules.Match) int { return len(m.Cmdlines) }) {
		all = append(all, "asks for command lines, which no recording has")
	}
	switch {
	case holders && !h.Holders:
		all = append(all, "asks who holds sockets, and the recording does not tell: sockdog record --holders does")
	case masked(recording.Names) && asks(func(m *rules.Match) int { return len(m.Processes) + len(m.Units) + len(m.Containers) + len(m.Pods) }):
		all = append(all, "asks for names, which the recording has masked")
	}
	if masked(recording.Addresses) && asks(func(m *rules.Match) int { return len(m.Cgroups) + len(named(m.Netns)) }) {
		all = append(all, "asks for control groups or names of network namespaces, which a masked recording does not have")
	}
	return all
}

// named are the network namespaces that are called by a name.
func named(all []rules.Netns) []rules.Netns {
	return slices.DeleteFunc(slices.Clone(all), func(n rules.Netns) bool { return n.Name == "" })
}
