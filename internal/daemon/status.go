package daemon

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/group"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/journal"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/status"
	"github.com/sockdog/sockdog/rules"
)

// statusFacts is what is shown to the world beside what the engine knows.
type statusFacts struct {
	started   time.Time
	file      status.RulesFile
	problems  status.Problems
	notes     status.Problems
	paused    *status.Pause    // nil: it acts
	actions   []journal.Record // the last ones, newest last
	lateness  status.Histogram
	durations status.Histogram // of scans
	history   status.Recorder
	texts     map[string]string // of the rules in force, by name

	states statesShown
}

func newStatusFacts(o *Options) statusFacts {
	now := time.Now()
	b := statusFacts{
		started: now, file: o.File, problems: o.Problems, lateness: status.NewLateness(), durations: status.NewScanDurations(),
	}
	b.file.Loaded, b.file.OK = now, b.file.Error == ""
	if !b.file.OK {
		b.problems = b.problems.With(badRules(&b.file, rulesCure(nil), now))
	}
	return b
}

// loaded notes how a reading of the rules file went.
func (s *statusFacts) loaded(err error, again bool) {
	now := time.Now()
	if err != nil {
		s.file.OK, s.file.Error = false, Mistakes(s.file.Path, err)
		s.problems = s.problems.With(badRules(&s.file, rulesCure(err), now))
		return
	}
	if !again {
		s.file.Loaded = now
	}
	s.file.BuiltIn, s.file.OK, s.file.Error = false, true, ""
	s.problems = s.problems.Without("rules")
}

// rule notes what the rules in force say.
func (s *statusFacts) rule(set *rules.Set) {
	s.texts = make(map[string]string, len(set.Rules))
	for i := range set.Rules {
		text := []rune(set.Rules[i].Text())
		if len(text) > mostText {
			text = append(text[:mostText-1], '…')
		}
		s.texts[set.Rules[i].Name] = string(text)
	}
}

// mostText bounds what is shown of a rule, in characters.
const mostText = 500

// done notes what was decided or done. What is held back is only counted: it is
// no action.
func (s *statusFacts) done(records []journal.Record) {
	for i := range records {
		if records[i].Result != journal.Held {
			s.actions = append(s.actions, records[i])
		}
	}
	if over := len(s.actions) - status.MostActions; over > 0 {
		s.actions = slices.Clone(s.actions[over:])
	}
}

// publish shows how things stand, where somebody may want to know.
func (d *watch) publish() {
	if d.StatusStore == nil {
		return
	}
	now, instant := time.Now(), d.Now()
	wall := func(at sock.Instant) time.Time { return now.Add(-instant.Sub(at)) }
	o := d.engine.Overview(instant)
	shown := &d.shown
	var source status.Source
	if d.SourceState != nil {
		source = d.SourceState()
	}
	d.judge(&o, &source, now)
	s := &status.Status{
		Version: d.Version, Host: d.Host, Netns: netnsText(d.Netns),
		Time: now, Started: shown.started, Ready: d.service.ready,
		Paused: shown.paused, Problems: shown.problems, Notes: shown.notes, File: shown.file, Rules: make([]status.Rule, len(o.Rules)), Source: source,
		SocketsEverySeconds: shown.states.every.Seconds(), History: shown.history.History(now),
		Actions:             slices.Clone(shown.actions),
		ActionPossible:      make(map[string]bool, len(d.Kinds)),
		Lateness:            shown.lateness.Clone(),
		WriteStalledSeconds: stalledSeconds(d.recorder.health.stalled()),
		Scans: status.Scans{
			OK: o.Scans, Failed: o.FailedScans, Duration: shown.durations.Clone(),
			IntervalSeconds: o.Interval.Seconds(), WantedSeconds: o.Wanted.Seconds(),
			StalledSeconds: stalledSeconds(d.readers.scanStall.waited(instant)),
		},
	}
	s.Sockets, s.SocketsAt = shown.states.now()
	for _, k := range d.Kinds {
		if k.Kind.On != rules.OnSocket {
			continue // it is not tried beforehand
		}
		s.ActionPossible[k.Name] = o.Capabilities.CannotAny(k.Kind) == nil
	}
	slices.Reverse(s.Actions)
	for i := range o.Rules {
		s.Rules[i] = ruleStatus(&o.Rules[i], wall)
		s.Rules[i].Text = shown.texts[o.Rules[i].Name]
	}
	for _, r := range d.publisher.notifier.Stats() {
		s.Receivers = append(s.Receivers, status.Receiver{Name: r.Receiver, Sent: r.Sent, Failed: r.Failed, Dropped: r.Dropped})
	}
	d.StatusStore.Show(s)
}

func ruleStatus(r *engine.RuleOverview, wall func(sock.Instant) time.Time) status.Rule {
	s := status.Rule{
		Name: r.Name, Description: r.Description, Mode: status.Enabled, Whole: rules.Whole(r.When),
		Sockets: r.Sockets, Candidates: r.Candidates, OldestSeconds: r.Oldest.Seconds(), Held: r.Held,
		Firing: r.Firing, Pending: r.Pending, Groups: make([]status.Group, len(r.Groups)),
		Actions: make(map[string]status.Tally, len(r.Results)), HeldBack: make(map[string]uint64, len(r.HeldBack)),
	}
	s.Descriptors = status.Descriptors(r.Descriptors)
	s.LeaksBack = len(r.Leakers)
	for _, p := range r.HeldBy {
		s.HeldBy = append(s.HeldBy, status.ProcessSockets(p))
	}
	for _, n := range r.InNetns {
		s.InNetns = append(s.InNetns, status.NetnsSockets{Netns: cmp.Or(netnsText(n.Netns), status.OtherNetns), NetnsName: n.Name, Sockets: n.Sockets})
	}
	for reason, n := range r.HeldBack {
		s.HeldBack[string(reason)] = n
	}
	if r.FirstDue != engine.Never {
		seconds := r.FirstDue.Seconds()
		s.FirstDueSeconds = &seconds
	}
	switch {
	case !r.Enabled:
		s.Mode = status.Disabled
	case r.DryRun:
		s.Mode = status.DryRun
	case r.Stopped != nil:
		s.Mode = status.Stopped
		s.Stop = &status.Stop{Reason: r.Stopped.Reason, PID: r.Stopped.PID, Comm: r.Stopped.Comm, Since: wall(r.Stopped.Since)}
	}
	for k, n := range r.Results {
		if s.Actions[k.Kind.Name] == nil {
			s.Actions[k.Kind.Name] = make(status.Tally)
		}
		if n > 0 {
			s.Actions[k.Kind.Name][journal.Result(k.Result)] = n
		}
	}
	for i := range r.Groups {
		g := &r.Groups[i]
		shown := status.Group{Labels: subject.ByName(g.Group), Phase: status.Phase(g.Phase), Conditions: make([]status.Condition, len(r.When))}
		if g.Since != 0 {
			shown.Since = wall(g.Since)
		}
		for j, c := range r.When {
			value := g.Of(c.Metric)
			shown.Conditions[j] = status.Condition{
				Metric: string(c.Metric), Op: string(c.Op), Threshold: c.Number, Unit: c.Metric.Unit(), Value: rounded(value, 10), Near: rounded(group.Nearness(c, value), 100),
			}
		}
		s.Groups[i] = shown
	}
	return s
}

func rounded(x, parts float64) float64 { return math.Round(parts*x) / parts }
