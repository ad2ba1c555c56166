package daemon

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sockdog/sockdog/internal/action"
	"github.com/sockdog/sockdog/internal/alert"
	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/status"
	"github.com/sockdog/sockdog/rules"
)

// tellProblem notes whether a problem stands.
type tellProblem func(is bool, kind, text, cure string)

// judge finds what keeps the daemon from its work.
func (d *watch) judge(o *engine.Overview, source *status.Source, now time.Time) {
	tell := func(is bool, kind, text, cure string) {
		d.shown.stands(is, status.Problem{Kind: kind, Text: text, Cure: cure, Since: now})
	}
	d.judgePause(tell)
	for _, k := range d.Kinds {
		missing, why := d.rules.cannot(k.Kind, o.Capabilities)
		text := ""
		if why != nil {
			text = action.Missing(k.Kind, why)
		}
		tell(why != nil, k.Name, text, d.Cures[missing])
	}
	tell(o.Failing, "scans", "scans of the socket table fail: new sockets are not found", "the log says why")
	tell(o.Stretched, "interval",
		fmt.Sprintf("the table is scanned every %v, and the rules want every %v", o.Interval.Round(time.Millisecond), o.Wanted),
		fmt.Sprintf("raise settings.cpu_budget: a scan costs %v of CPU", o.Cost.Round(time.Microsecond)))
	tell(o.Left > 0, "memory",
		fmt.Sprintf("%d sockets that rules want are left for later: memory allows %d to be watched, and those are the oldest", o.Left, d.MaxTracks),
		"raise GOMEMLIMIT, and the memory limit of the container or unit")
	failures := d.publisher.failures()
	tell(len(failures) > 0, "template", "alerts have the built-in text: "+strings.Join(failures, "; "), "mend the template in the rules file")
	d.judgeSource(tell)
	tell(source.LeftOut != "" && !source.Few, "namespaces",
		"network namespaces whose sockets nobody watches: "+source.LeftOut, cmp.Or(source.Cure, lockCure))
	d.judgeState(tell)
	d.judgeLog(tell)
	d.judgeReceivers()
	d.shown.stands(o.WalkHangs, d.hangingWalk(now))
	hung := d.Hung()
	tell(hung != "", "cmdline", hung, "end that process: rules that ask for command lines leave alone what it holds")
	d.shown.stands(len(o.Spins) > 0, spinning(o.Spins, now))
	d.judgeStopped(tell, o)
	d.judgeBlind(tell, o)
	judgeLeaks(tell, o)
}

// judgeStopped finds the rules that have stopped themselves.
func (d *watch) judgeStopped(tell tellProblem, o *engine.Overview) {
	var lines []string
	name := "NAME"
	for i := range o.Rules {
		if r := &o.Rules[i]; r.Stopped != nil && r.Enabled {
			lines = append(lines, "rule "+r.Name+" stopped itself: "+alert.WhyStopped(r.Stopped))
			name = r.Name
		}
	}
	if len(lines) > 1 {
		name = "NAME" // of each
	}
	cure := "mend the program, then run sockdog rule reset " + name + ", or change the rule"
	if d.Store == nil {
		cure += "; without a state directory, a restart resets it, too"
	}
	tell(len(lines) > 0, "stopped", strings.Join(lines, "\n"), cure)
}

// judgeLeaks finds the programs whose leaks come back after each healing.
func judgeLeaks(tell tellProblem, o *engine.Overview) {
	var lines []string
	for i := range o.Rules {
		for _, l := range o.Rules[i].Leakers {
			if len(lines) < mostSpins {
				lines = append(lines, fmt.Sprintf("rule %s heals %s[%d] again and again: its leak came back %d times within an hour", o.Rules[i].Name, subject.PlainName(l.Comm), l.PID, l.Returns))
			}
		}
	}
	tell(len(lines) > 0, "leak", strings.Join(lines, "\n"), "killing is not the cure: mend the program; sockdog why says what to look for")
}

// judgeSource finds what the workers that read the source do not end.
func (d *watch) judgeSource(tell tellProblem) {
	scanning := d.readers.scanStall.waited(d.Now())
	tell(scanning >= scanPatience, "scan",
		fmt.Sprintf("the scan of the socket table has not ended for %v: new sockets are not found, known ones are attended to", scanning.Round(time.Second)), lockCure)
	acting := d.readers.actionStall.waited(d.Now())
	tell(acting >= actionPatience, "act",
		fmt.Sprintf("an action has not ended for %v: no other is done until it has", acting.Round(time.Second)), lockCure)
	locked := 0
	if l := d.readers.lookup.Load(); l != nil {
		locked = l.Locked()
	}
	tell(locked > 0, "locked",
		fmt.Sprintf("sockets that cannot be asked for, and are left alone: %d; the kernel waits for the programs that hold their locks", locked), lockCure)
}

// judgeState finds what the state directory does not take.
func (d *watch) judgeState(tell tellProblem) {
	for _, what := range []string{theJournal, theStore} {
		why := d.recorder.health.why(what)
		tell(why != "", what, what+" cannot be written, and what it would hold is in memory only: "+why,
			"see whether the state directory is there, and its disk full or read-only")
	}
	slow := d.recorder.health.slow()
	tell(slow != "", "disk", slow, "see what the disk of the state directory does, or give --state-dir another")
}

// logPatience is how long the reader of the log may take over a line.
const logPatience = 5 * time.Second

// judgeLog finds whether the log reaches anybody.
func (d *watch) judgeLog(tell tellProblem) {
	lost, stalled, err := d.log.trouble()
	var text string
	switch {
	case err != nil:
		if path := (*fs.PathError)(nil); errors.As(err, &path) {
			err = path.Err // it is standard error, whatever that is called
		}
		text = fmt.Sprintf("the log cannot be written: %v; %d lines are lost", err, lost)
	case stalled >= logPatience:
		text = fmt.Sprintf("nobody has read the log for %v; %d lines are lost", stalled.Round(time.Second), lost)
	}
	tell(text != "", "log", text, "see who reads the log; actions stand on this page, and with --state-dir in the journal")
}

// judgeReceivers finds the receivers that take no alerts.
func (d *watch) judgeReceivers() {
	const kind = "receiver "
	down := make(map[string]bool)
	for _, r := range d.publisher.notifier.Stats() {
		if len(r.Down) == 0 {
			continue
		}
		p := status.Problem{Kind: kind + r.Receiver, Text: "receiver " + r.Receiver + ":", Cure: "what still fires is told when that is mended", Since: r.Down[0].Since}
		for _, url := range r.Down {
			p.Text += " " + url.URL + ": " + url.Err
		}
		down[p.Kind] = true
		d.shown.problems = d.shown.problems.With(p)
	}
	for _, p := range d.shown.problems {
		if strings.HasPrefix(p.Kind, kind) && !down[p.Kind] {
			d.shown.problems = d.shown.problems.Without(p.Kind)
		}
	}
}

// stands notes whether a problem does.
func (s *statusFacts) stands(is bool, p status.Problem) {
	if is {
		s.problems = s.problems.With(p)
	} else {
		s.problems = s.problems.Without(p.Kind)
	}
}

func badRules(f *status.RulesFile, cure string, now time.Time) status.Problem {
	until := "the rules from before stay in force until then"
	if f.BuiltIn {
		until = "the built-in rules watch and touch nothing until then"
	}
	return status.Problem{Kind: "rules", Text: "the rules file is not in force: " + f.Error, Cure: cure + "; " + until, Since: now}
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
