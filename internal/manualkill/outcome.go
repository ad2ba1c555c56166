package manualkill

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/sockettable"
	"github.com/sockdog/sockdog/internal/term"
	"github.com/sockdog/sockdog/rules"
)

// outcome is what became of a socket in -o json, under the names that the log uses.
type outcome struct {
	Time   string `json:"time"`
	Action string `json:"action"`
	Result string `json:"result"`
	DryRun bool   `json:"dry_run"`
	Reason string `json:"reason"`
	Via    string `json:"via,omitempty"`
	sockettable.Object
}

// PrintJSON prints what became of the targets by that time.
func PrintJSON(out io.Writer, targets []*Target, dryRun bool, at time.Time) error {
	stamp := at.Format(time.RFC3339Nano)
	return term.JSON(out, func(yield func(outcome) bool) {
		for _, t := range targets {
			object := sockettable.ObjectOf(&t.Socket, t.Age, t.Holders())
			if !yield(outcome{stamp, rules.Kill.Name, string(t.Result), dryRun, t.Reason, string(t.Via), object}) {
				return
			}
		}
	})
}

// settled reports whether nothing is left of what was selected.
func settled(r engine.Result) bool {
	return r == engine.Done || r == engine.Gone || r == engine.Changed
}

// Print prints a line for each target. Those of which something is left come last: they
// are what is read. A narrow terminal goes without what the sockets were selected by.
func Print(out io.Writer, targets []*Target, v *sockettable.View) error {
	heads := []string{"RESULT", "STATE", "LOCAL", "PEER", "AGE", "WHY"}
	if v.Holders {
		heads = slices.Insert(heads, 5, "PROCESS")
	}
	if v.Netns {
		heads = append(heads, "NETNS")
	}
	table := term.NewTable(heads...)
	table.Bare = !v.Headings || len(targets) == 0
	result, state, local, age := &table.Columns[0], &table.Columns[1], &table.Columns[2], &table.Columns[4]
	result.Whole, state.Whole, age.Whole = true, true, true
	state.Spare, age.Spare, local.Spare = 1, 2, term.LastSpare
	for _, left := range []bool{false, true} {
		for _, t := range targets {
			if settled(t.Result) == left {
				continue
			}
			s := &t.Socket
			table.Row(string(t.Result), sockettable.StateHead(s.State), s.Zoned(s.Src).String(), s.Zoned(s.Dst).String())
			table.Add(sockettable.AppendAge(table.Buffer(), t.Age.InState, t.Age.Known, t.Age.Exact))
			if v.Holders {
				table.Row(sockettable.Holders(t.Holders()))
			}
			table.Row(cmp.Or(t.Reason, "-"))
			if v.Netns {
				table.Row(cmp.Or(s.NetnsName(), sockettable.Netns(s.ID.Netns)))
			}
		}
	}
	return table.Print(out, v.Cells)
}

// Show prints what is to be destroyed, as a list does, the oldest first, and where it is
// too much for a table, to whom it is connected; netns: and in which network namespace.
func Show(out io.Writer, targets []*Target, netns bool, cells int) error {
	const most = 20
	table := sockettable.Table{Holders: make(map[uint32][]sock.Holder)}
	for _, t := range targets {
		table.Add(&t.Socket, t.Age)
		table.Holders[t.Socket.Inode] = t.Holders()
	}
	view := sockettable.View{Holders: true, Netns: netns, Headings: true, Most: most, Cells: cells}
	view.Order, _ = sockettable.ParseOrder("age", false)
	if err := table.Print(out, &view); err != nil || len(targets) <= most {
		return err
	}
	fmt.Fprintln(out)
	view.Keys, _ = sockettable.ParseKeys("dst,dport")
	return table.Print(out, &view)
}

// Sum is how many targets came to which result, and for which reasons.
type Sum struct {
	dryRun bool
	counts map[reason]int
}

// reason is what became of a target, and why.
type reason struct {
	result engine.Result
	text   string // empty: there is nothing to say
}

// SumOf counts those that something has become of.
func SumOf(targets []*Target, dryRun bool) Sum {
	s := Sum{dryRun, make(map[reason]int)}
	for _, t := range targets {
		s.counts[reason{t.Result, t.Reason}]++
	}
	return s
}

// of is how many targets came to a result.
func (s Sum) of(result engine.Result) (n int) {
	for r, count := range s.counts {
		if r.result == result {
			n += count
		}
	}
	return n
}

// words are what a sum calls the results.
var words = map[engine.Result]string{
	engine.Done: "destroyed", engine.Would: "would destroy", engine.Gone: "gone", engine.Changed: "changed",
	LeftAlone: "left alone", engine.Unconfirmed: "unconfirmed", engine.Failed: "failed",
}

// String is the sum in one line: "destroyed 9000, gone 3, left alone 2".
func (s Sum) String() string {
	var parts []string
	aim := engine.Done
	if s.dryRun {
		aim = engine.Would
	}
	for _, r := range []engine.Result{engine.Done, engine.Would, engine.Gone, engine.Changed, LeftAlone, engine.Unconfirmed, engine.Failed} {
		if n := s.of(r); n > 0 || r == aim {
			parts = append(parts, fmt.Sprintf("%s %d", words[r], n))
		}
	}
	return strings.Join(parts, ", ")
}

// Failed reports whether a socket could not be destroyed.
func (s Sum) Failed() bool { return s.of(engine.Failed) > 0 }

// Left says of what something is left, and why, the most first, and what to write where
// it is meant. By default ssh is protected.
func (s Sum) Left(byDefault bool) []string {
	var left []reason
	protected, live := false, false
	for r := range s.counts {
		if r.text != "" && !settled(r.result) {
			left = append(left, r)
		}
		protected = protected || r.text == "protected"
		live = live || strings.HasPrefix(r.text, liveReason)
	}
	slices.SortFunc(left, func(a, b reason) int {
		return cmp.Or(cmp.Compare(s.counts[b], s.counts[a]), cmp.Compare(a.result, b.result), cmp.Compare(a.text, b.text))
	})
	var lines []string
	for _, r := range left {
		lines = append(lines, fmt.Sprintf("%s %d: %s", words[r.result], s.counts[r], r.text))
	}
	if protected && byDefault {
		lines = append(lines, "ssh is protected, port 22 at either end: name that port in the filter if you mean it")
	}
	if live {
		lines = append(lines, "--idle 1h takes those that have been idle that long, --in-use takes all")
	}
	return lines
}
