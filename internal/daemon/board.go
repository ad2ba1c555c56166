package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/journal"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/status"
	"github.com/sockdog/sockdog/rules"
)

// board is what is shown to the world beside what the engine knows.
type board struct {
	started   time.Time
	file      status.RulesFile
	problems  status.Problems
	notes     status.Problems
	actions   []journal.Record // the last ones, newest last
	lateness  status.Histogram
	durations status.Histogram // of scans
	history   status.Recorder
	texts     map[string]string // of the rules in force, by name

	sockets      status.Sockets // replaced, never changed
	socketsAt    time.Time
	socketsEvery time.Duration
}

func newBoard(o *Options) board {
	now := time.Now()
	b := board{
		started: now, file: o.File, problems: o.Problems, lateness: status.NewLateness(), durations: status.NewScanDurations(),
	}
	b.file.Loaded, b.file.OK = now, b.file.Error == ""
	if !b.file.OK {
		b.problems = b.problems.With(badRules(&b.file, now))
	}
	return b
}

func badRules(f *status.RulesFile, now time.Time) status.Problem {
	p := status.Problem{
		Kind: "rules", Text: "the rules file is not in force: " + f.Error, Since: now,
		Cure: "the rules from before stay in force until it is mended; sockdog check shows the mistakes",
	}
	if f.BuiltIn {
		p.Cure = "the built-in rules watch and touch nothing until it is mended; sockdog check shows the mistakes"
	}
	return p
}

// What is told of the mistakes in a rules file is bounded: who mends it has sockdog
// check.
const (
	mostMistakes = 3
	mistakeSize  = 300 // bytes of one
)

// Mistakes says what is wrong with a rules file, a mistake a line: the first few, and
// how many there are.
func Mistakes(path string, err error) string {
	var all rules.Problems
	if !errors.As(err, &all) {
		return cut(err.Error(), mostMistakes*mistakeSize)
	}
	var lines []string
	for _, p := range all[:min(len(all), mostMistakes)] {
		lines = append(lines, cut(fmt.Sprintf("%s:%d:%d: %s", path, p.Line, p.Column, p.Msg), mistakeSize))
	}
	if more := all.Count() - mostMistakes; more > 0 {
		lines = append(lines, cut(fmt.Sprintf("and %d more: sockdog check %s", more, path), mistakeSize))
	}
	return strings.Join(lines, "\n")
}

// cut shortens a text to so many bytes.
func cut(text string, size int) string {
	if len(text) <= size {
		return text
	}
	const more = "…"
	end := size - len(more)
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + more
}

// loaded notes how a reading of the rules file went.
func (b *board) loaded(err error, again bool) {
	now := time.Now()
	if err != nil {
		b.file.OK, b.file.Error = false, Mistakes(b.file.Path, err)
		b.problems = b.problems.With(badRules(&b.file, now))
		return
	}
	if !again {
		b.file.Loaded = now
	}
	b.file.BuiltIn, b.file.OK, b.file.Error = false, true, ""
	b.problems = b.problems.Without("rules")
}

// rule notes what the rules in force say.
func (b *board) rule(set *rules.Set) {
	b.texts = make(map[string]string, len(set.Rules))
	for i := range set.Rules {
		text := []rune(set.Rules[i].Text())
		if len(text) > mostText {
			text = append(text[:mostText-1], '…')
		}
		b.texts[set.Rules[i].Name] = string(text)
	}
}

// mostText bounds what is shown of a rule, in characters.
const mostText = 500

// stands notes whether a problem does.
func (b *board) stands(is bool, p status.Problem) {
	if is {
		b.problems = b.problems.With(p)
	} else {
		b.problems = b.problems.Without(p.Kind)
	}
}

// done notes what was decided or done. What is held back is only counted: it is
// no action.
func (b *board) done(records []journal.Record) {
	var last []journal.Record
	for i := len(records) - 1; i >= 0 && len(last) < status.MostActions; i-- {
		if records[i].Result != journal.Held {
			last = append(last, records[i])
		}
	}
	slices.Reverse(last)
	b.actions = append(b.actions, last...)
	if over := len(b.actions) - status.MostActions; over > 0 {
		b.actions = slices.Clone(b.actions[over:])
	}
}

// publish shows how things stand, where somebody may want to know.
func (d *watch) publish() {
	if d.Board == nil {
		return
	}
	now, instant := time.Now(), d.Now()
	wall := func(at sock.Instant) time.Time { return now.Add(-instant.Sub(at)) }
	o := d.engine.Overview(instant)
	b := &d.board
	d.judge(&o, now)
	s := &status.Status{
		Version: d.Version, Host: d.Host, Netns: d.Netns,
		Time: now, Started: b.started, Ready: d.ready,
		Problems: b.problems, Notes: b.notes, File: b.file, Rules: make([]status.Rule, len(o.Rules)),
		Sockets: b.sockets, SocketsAt: b.socketsAt, SocketsEverySeconds: b.socketsEvery.Seconds(), History: b.history.History(now),
		Actions:             slices.Clone(b.actions),
		ActionPossible:      make(map[string]bool, len(d.Kinds)),
		Lateness:            b.lateness.Clone(),
		WriteStalledSeconds: stalledSeconds(d.recorder.health.stalled()),
		Scans: status.Scans{
			OK: o.Scans, Failed: o.FailedScans, Duration: b.durations.Clone(),
			IntervalSeconds: o.Interval.Seconds(), WantedSeconds: o.Wanted.Seconds(),
			StalledSeconds: stalledSeconds(d.scanStall.waited(instant)),
		},
	}
	for _, k := range d.Kinds {
		s.ActionPossible[k.Name] = o.Capabilities.CannotAny(k.Kind) == ""
	}
	slices.Reverse(s.Actions)
	for i := range o.Rules {
		s.Rules[i] = ruleStatus(&o.Rules[i], wall)
		s.Rules[i].Text = b.texts[o.Rules[i].Name]
	}
	for _, r := range d.publisher.notifier.Stats() {
		s.Receivers = append(s.Receivers, status.Receiver{Name: r.Receiver, Sent: r.Sent, Failed: r.Failed, Dropped: r.Dropped})
	}
	d.Board.Show(s)
}

// judge finds what keeps the daemon from its work.
func (d *watch) judge(o *engine.Overview, now time.Time) {
	b := &d.board
	b.stands(o.Capabilities.Kill != "" && d.destroys, status.Problem{
		Kind: "kill", Text: "nothing can be killed: " + o.Capabilities.Kill, Cure: d.Cure, Since: now,
	})
	b.stands(o.Failing, status.Problem{
		Kind: "scans", Text: "scans of the socket table fail: new sockets are not found", Cure: "the log says why", Since: now,
	})
	stalled := d.scanStall.waited(d.Now())
	b.stands(stalled >= scanPatience, status.Problem{
		Kind: "scan", Since: now,
		Text: "the scan of the socket table has not ended for " + stalled.Round(time.Second).String() + ": new sockets are not found, known ones are attended to",
		Cure: lockCure,
	})
	killing := d.killStall.waited(d.Now())
	b.stands(killing >= killPatience, status.Problem{
		Kind: "act", Since: now, Text: "a kill has not ended for " + killing.Round(time.Second).String() + ": no other is done until it has", Cure: lockCure,
	})
	locked := 0
	if q := d.questions.Load(); q != nil {
		locked = q.lockedNow()
	}
	b.stands(locked > 0, status.Problem{
		Kind: "locked", Since: now, Text: fmt.Sprintf("sockets that cannot be asked for, and are left alone: %d; the kernel waits for the programs that hold their locks", locked), Cure: lockCure,
	})
	b.stands(o.Stretched, status.Problem{
		Kind: "interval", Since: now,
		Text: "the table is scanned every " + o.Interval.Round(time.Millisecond).String() + ", and the rules want every " + o.Wanted.String(),
		Cure: "raise settings.cpu_budget: a scan costs " + o.Cost.Round(time.Microsecond).String() + " of CPU",
	})
	b.stands(o.Left > 0, status.Problem{
		Kind: "memory", Since: now,
		Text: fmt.Sprintf("%d sockets that rules want are left for later: memory allows %d to be watched, and those are the oldest", o.Left, d.MaxTracks),
		Cure: "raise GOMEMLIMIT, and the memory limit of the container or unit",
	})
	for _, what := range []string{theJournal, theStore} {
		why := d.recorder.health.why(what)
		b.stands(why != "", status.Problem{
			Kind: what, Text: what + " cannot be written, and what it would hold is in memory only: " + why, Since: now,
			Cure: "see whether the state directory is there, and its disk full or read-only",
		})
	}
	b.stands(o.WalkHangs, d.hangingWalk(now))
	b.stands(len(o.Spins) > 0, spinning(o.Spins, now))
	slow := d.recorder.health.slow()
	b.stands(slow != "", status.Problem{Kind: "disk", Text: slow, Cure: "see what the disk of the state directory does, or give --state-dir another", Since: now})
	d.judgeLog(now)
	troubles := d.publisher.failures()
	b.stands(len(troubles) > 0, status.Problem{
		Kind: "template", Text: "alerts say what sockdog says by itself: " + strings.Join(troubles, "; "), Cure: "mend the template in the rules file", Since: now,
	})
	d.judgeReceivers()
}

// logPatience is how long the reader of the log may take over a line.
const logPatience = 5 * time.Second

// judgeLog finds whether the log reaches anybody.
func (d *watch) judgeLog(now time.Time) {
	lost, stalled, err := d.log.trouble()
	p := status.Problem{Kind: "log", Cure: "see who reads the log; actions stand on this page, and with --state-dir in the journal", Since: now}
	switch {
	case err != nil:
		if path := (*fs.PathError)(nil); errors.As(err, &path) {
			err = path.Err // it is standard error, whatever that is called
		}
		p.Text = fmt.Sprintf("the log cannot be written: %v; %d lines are lost", err, lost)
	case stalled >= logPatience:
		p.Text = fmt.Sprintf("nobody has read the log for %v; %d lines are lost", stalled.Round(time.Second), lost)
	}
	d.board.stands(p.Text != "", p)
}

// judgeReceivers finds the receivers that take no alerts.
func (d *watch) judgeReceivers() {
	const kind = "receiver "
	down := make(map[string]status.Problem)
	for _, r := range d.publisher.notifier.Stats() {
		for _, url := range r.Down {
			p, several := down[kind+r.Receiver]
			if !several {
				p = status.Problem{Kind: kind + r.Receiver, Text: "receiver " + r.Receiver + ":", Cure: "what still fires is told when that is mended", Since: url.Since}
			}
			p.Text += " " + url.URL + ": " + url.Err
			down[p.Kind] = p
		}
	}
	for _, p := range d.board.problems {
		if _, is := down[p.Kind]; !is && strings.HasPrefix(p.Kind, kind) {
			d.board.problems = d.board.problems.Without(p.Kind)
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(down)) {
		d.board.problems = d.board.problems.With(down[kind])
	}
}

func ruleStatus(r *engine.RuleOverview, wall func(sock.Instant) time.Time) status.Rule {
	s := status.Rule{
		Name: r.Name, Description: r.Description, Mode: status.Enabled,
		Sockets: r.Sockets, Candidates: r.Candidates, OldestSeconds: r.Oldest.Seconds(), Held: r.Held,
		Firing: r.Firing, Pending: r.Pending, Groups: make([]status.Group, len(r.Groups)),
		Actions: make(map[string]status.Tally, len(r.Results)), HeldBack: r.HeldBack,
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
	}
	for kind, results := range r.Results {
		t := make(status.Tally, len(results))
		for result, n := range results {
			t[journal.Result(result)] = n
		}
		s.Actions[kind.Name] = t
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
				Metric: string(c.Metric), Op: string(c.Op), Threshold: c.Number, Unit: c.Metric.Unit(), Value: rounded(value, 10), Near: rounded(nearness(c, value), 100),
			}
		}
		s.Groups[i] = shown
	}
	return s
}

func rounded(x, parts float64) float64 { return math.Round(parts*x) / parts }

// nearness is how much of the way to its threshold a value has gone, from whichever
// side: 1 where the condition holds.
func nearness(c rules.Condition, value float64) float64 {
	switch most := max(value, c.Number); {
	case c.Holds(value):
		return 1
	case most == 0:
		return 0
	default:
		return min(value, c.Number) / most
	}
}
