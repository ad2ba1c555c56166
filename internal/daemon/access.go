package daemon

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/sockdog/sockdog/internal/action"
	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/holders"
	"github.com/sockdog/sockdog/internal/status"
)

// examined is whose descriptors can be read, as the engine and the reader want it.
type examined struct {
	engine.AccessExamined
	note  *unnamedNote // nil: there is nothing to tell
	lacks []slog.Attr  // what of it keeps rules from knowing who holds sockets, and the cure
	blind string       // the cure, where most processes cannot be read; empty: they can
}

// unnamedNote says whose sockets have no name.
type unnamedNote struct {
	status.Problem
	few bool // most processes can be read
}

// examinedBy says what a walk has found out of whose descriptors can be read.
func examinedBy(access holders.Access, err error) examined {
	e := examined{AccessExamined: engine.AccessExamined{Complete: err == nil && access.Complete()}}
	switch {
	case err != nil:
		e.lacks = lacking(unexamined(err))
	case !e.Complete:
		e.lacks = lacking(access.Unnamed(subject.PlainName))
	}
	if text, cure := unnamed(&access, err); text != "" {
		few := err == nil && access.Refused > 0 && 2*access.Refused < access.Processes
		if !few {
			e.blind = cure
		}
		e.note = &unnamedNote{few: few, Problem: status.Problem{Kind: "holders", Text: text, Cure: cure + "; docs/watching.md says what that takes"}}
	}
	return e
}

func unexamined(err error) (text, cure string) {
	return "processes cannot be examined: " + err.Error(), "mount /proc"
}

func lacking(reason, cure string) []slog.Attr {
	return []slog.Attr{slog.String("reason", reason), slog.String("cure", cure)}
}

// withCure puts to the notes that who holds sockets, or what becomes of those, cannot be seen what
// was missing for it at the start; and to others what to do.
func (d *watch) withCure(said []engine.Note) []engine.Note {
	for i := range said {
		switch n := &said[i]; n.Kind {
		case engine.HoldersUnseen, engine.CanaryUntold:
			n.Values = slices.Concat(n.Values, d.lacks)
		case engine.StillOpen:
			n.Values = slices.Concat(n.Values, []slog.Attr{slog.String("cure", "restart or mend the program; sockdog why says what to look for")})
		}
	}
	return said
}

// unnamed says whose sockets have no name, and what to do about it. Where every
// process that is shown can be read, and there are others than sockdog, it has
// nothing to say: whoever shares this network namespace is most likely among them.
func unnamed(a *holders.Access, err error) (text, cure string) {
	switch {
	case err != nil:
		return unexamined(err)
	case a.Complete(), a.Pod():
		return "", ""
	}
	text, cure = a.Unnamed(subject.PlainName)
	return text + ", nor whether a kill makes those processes spin", cure
}

// tellAccess says once whose sockets have no name, where rules are in force that
// name some.
func (d *watch) tellAccess() {
	n := d.unnamed
	if n == nil || !d.rules.enabled {
		return
	}
	n.Since = d.shown.started
	d.unnamed, d.shown.notes = nil, d.shown.notes.With(n.Problem)
	level := slog.LevelInfo
	if !n.few && slices.ContainsFunc(d.Kinds, func(k *action.Kind) bool { return k.Destructive && d.rules.do(k.Kind) }) {
		level = slog.LevelWarn
	}
	d.log.say(level, "who holds sockets cannot be told for all processes", slog.String("reason", n.Text), slog.String("cure", n.Cure))
}

// judgeBlind finds the rules that decide nothing, as who holds their sockets cannot be seen where
// most processes cannot be read. Where few cannot, that is as it may be.
func (d *watch) judgeBlind(tell tellProblem, o *engine.Overview) {
	var lines []string
	for i := range o.Rules {
		if r := &o.Rules[i]; r.Blind && d.blind != "" {
			lines = append(lines, "rule "+r.Name+" does nothing: who holds its sockets cannot be told, and it or protect asks for that")
		}
	}
	tell(len(lines) > 0, "blind", strings.Join(lines, "\n"), d.blind)
}

// hangingWalk is the problem that a walk through /proc takes long. That a process
// hangs in the kernel and that the machine is too busy look alike from here.
func (d *watch) hangingWalk(now time.Time) status.Problem {
	p := status.Problem{Kind: "walk", Text: "a walk through /proc has taken over 30s: who holds new sockets is not known yet", Since: now,
		Cure: "if it stays at one process, that hangs in the kernel: end it, and restart sockdog; else the machine is short of CPU time"}
	if pid := d.WalkAt(); pid != 0 {
		p.Text += fmt.Sprintf("; it is at process %d now", pid)
	}
	return p
}
