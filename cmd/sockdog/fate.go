package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/sockdog/sockdog/internal/cull"
	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/sockettable"
	"github.com/sockdog/sockdog/internal/term"
	"github.com/sockdog/sockdog/rules"
)

// fate is what became of a socket in -o json, under the names that the log uses.
type fate struct {
	Time   string `json:"time"`
	Action string `json:"action"`
	Result string `json:"result"`
	DryRun bool   `json:"dry_run"`
	Reason string `json:"reason"`
	sockettable.Object
}

// printFatesJSON prints what became of the targets by that time.
func printFatesJSON(out io.Writer, targets []*cull.Target, dryRun bool, netns string, at time.Time) error {
	stamp := at.Format(time.RFC3339Nano)
	return term.JSON(out, func(yield func(fate) bool) {
		for _, t := range targets {
			if !yield(fate{
				Time: stamp, Action: rules.Kill.Name, Result: string(t.Result), DryRun: dryRun, Reason: t.Reason,
				Object: sockettable.ObjectOf(&t.Socket, t.Age, t.Holders(), netns),
			}) {
				return
			}
		}
	})
}

// settled reports whether nothing is left of what was selected.
func settled(r engine.Result) bool {
	return r == engine.Done || r == engine.Gone || r == engine.Changed
}

// fateTable prints what became of the targets.
type fateTable struct {
	headings bool
	holders  bool // who holds a socket
	fit      int  // cells in a line at most; 0 is no bound
}

// print prints a line for each target and then the sum. Those of which something
// is left come last: they are what is read. A narrow terminal goes without what the
// sockets were selected by.
func (f *fateTable) print(out io.Writer, targets []*cull.Target, s sum) error {
	heads := []string{"RESULT", "STATE", "LOCAL", "PEER", "AGE"}
	if f.holders {
		heads = append(heads, "PROCESS")
	}
	heads = append(heads, "WHY")
	table := term.NewTable(len(heads), len(targets))
	const state, local, age = 1, 2, 4
	table.Layout = term.Layout{Narrows: make([]bool, len(heads)), Spare: []int{state, age}, Last: []int{local}}
	for i := range heads {
		table.Layout.Narrows[i] = i >= local && i != age
	}
	if f.headings && len(targets) > 0 {
		table.Heads = heads
	}
	for _, left := range []bool{false, true} {
		for _, t := range targets {
			if settled(t.Result) == left {
				continue
			}
			table.Row(string(t.Result), sockettable.StateHead(t.Socket.State))
			table.Add(t.Socket.Zoned(t.Socket.Src).AppendTo(table.Buffer()))
			table.Add(t.Socket.Zoned(t.Socket.Dst).AppendTo(table.Buffer()))
			table.Add(sockettable.AppendAge(table.Buffer(), t.Age.InState, t.Age.Known, t.Age.Exact))
			if f.holders {
				table.Add(sockettable.AppendHolders(table.Buffer(), t.Holders()))
			}
			table.Row(cmp.Or(t.Reason, "-"))
		}
	}
	if err := table.Print(out, f.fit); err != nil {
		return err
	}
	_, err := fmt.Fprintln(out, s)
	return err
}

// sum is how many targets came to which result, and for which reasons.
type sum struct {
	dryRun  bool
	results map[engine.Result]int
	reasons map[reason]int
}

type reason struct {
	result engine.Result
	text   string
}

// sumOf counts those that something has become of.
func sumOf(targets []*cull.Target, dryRun bool) sum {
	s := sum{dryRun, make(map[engine.Result]int), make(map[reason]int)}
	for _, t := range targets {
		if t.Result == "" {
			continue
		}
		s.results[t.Result]++
		if t.Reason != "" {
			s.reasons[reason{t.Result, t.Reason}]++
		}
	}
	return s
}

// words are what a sum calls the results.
var words = map[engine.Result]string{
	engine.Done: "destroyed", engine.Would: "would destroy", engine.Gone: "gone", engine.Changed: "changed",
	cull.LeftAlone: "left alone", engine.Unconfirmed: "unconfirmed", engine.Failed: "failed",
}

// String is the sum in one line: "destroyed 9000, gone 3, left alone 2".
func (s sum) String() string {
	var parts []string
	aim := engine.Done
	if s.dryRun {
		aim = engine.Would
	}
	for _, r := range []engine.Result{engine.Done, engine.Would, engine.Gone, engine.Changed, cull.LeftAlone, engine.Unconfirmed, engine.Failed} {
		if n := s.results[r]; n > 0 || r == aim {
			parts = append(parts, fmt.Sprintf("%s %d", words[r], n))
		}
	}
	return strings.Join(parts, ", ")
}

// left says of what something is left, and why, the most first.
func (s sum) left() []string {
	var reasons []reason
	for r := range s.reasons {
		if !settled(r.result) {
			reasons = append(reasons, r)
		}
	}
	slices.SortFunc(reasons, func(a, b reason) int {
		return cmp.Or(cmp.Compare(s.reasons[b], s.reasons[a]), cmp.Compare(a.result, b.result), cmp.Compare(a.text, b.text))
	})
	lines := make([]string, 0, len(reasons))
	for _, r := range reasons {
		lines = append(lines, fmt.Sprintf("%s %d: %s", words[r.result], s.reasons[r], r.text))
	}
	return lines
}
