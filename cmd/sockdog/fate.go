package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sockdog/sockdog/internal/cull"
	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/rules"
)

// fate is what became of a socket in -o json, under the names that the log uses.
type fate struct {
	Time       string   `json:"time"`
	Action     string   `json:"action"`
	Result     string   `json:"result"`
	DryRun     bool     `json:"dry_run"`
	Reason     string   `json:"reason"`
	Netns      string   `json:"netns"`
	Src        string   `json:"src"`
	Dst        string   `json:"dst"`
	State      string   `json:"state"`
	InStateFor *float64 `json:"in_state_for,omitempty"` // absent: only observation could tell
	IdleFor    *float64 `json:"idle_for,omitempty"`
	Bound      bool     `json:"bound"` // the ages are lower bounds
	Cookie     uint64   `json:"cookie"`
	Inode      uint32   `json:"inode"`
	UID        *uint32  `json:"uid,omitempty"` // of a socket that has an inode
	PID        int      `json:"pid,omitempty"`
	Comm       string   `json:"comm,omitempty"`
}

// printFatesJSON prints what became of the targets by that time.
func printFatesJSON(out io.Writer, targets []*cull.Target, dryRun bool, at time.Time) error {
	netns, stamp := netnsName(), at.Format(time.RFC3339Nano)
	fates := make([]fate, 0, len(targets))
	for _, t := range targets {
		f := fate{
			Time: stamp, Action: string(rules.Kill), Result: string(t.Result), DryRun: dryRun, Reason: t.Reason, Netns: netns,
			Src: t.Socket.Zoned(t.Socket.Src).String(), Dst: t.Socket.Zoned(t.Socket.Dst).String(), State: t.Socket.State.String(),
			Bound: !t.Age.Exact, Cookie: t.Socket.ID.Cookie, Inode: t.Socket.Inode, UID: uidOf(&t.Socket),
		}
		if t.Age.Known {
			f.InStateFor, f.IdleFor = seconds(t.Age.InState), seconds(t.Age.Idle)
		}
		if holders := t.Holders(); len(holders) > 0 {
			f.PID, f.Comm = holders[0].PID, holders[0].Comm
		}
		fates = append(fates, f)
	}
	return printJSON(out, fates)
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
	widths   []int
}

// The columns of a fateTable.
const (
	fateResult = iota
	fateState
	fateLocal
	fatePeer
	fateAge
	fateHeld
	fateWhy
)

var fateHeads = []string{"RESULT", "STATE", "LOCAL", "PEER", "AGE", "PROCESS", "WHY"}

// print prints a line for each target and then the sum. Those of which something
// is left come last: they are what is read.
func (f *fateTable) print(out io.Writer, targets []*cull.Target, s sum) error {
	rows := make([]*cull.Target, 0, len(targets))
	for _, t := range targets {
		if settled(t.Result) {
			rows = append(rows, t)
		}
	}
	for _, t := range targets {
		if !settled(t.Result) {
			rows = append(rows, t)
		}
	}
	f.measure(rows)
	const lineLength = 100 // about
	b := make([]byte, 0, (len(rows)+2)*lineLength)
	if f.headings && len(rows) > 0 {
		for i, head := range fateHeads {
			begin := len(b)
			b = f.end(append(b, head...), begin, i)
		}
	}
	for _, t := range rows {
		b = f.appendLine(b, t)
	}
	b = append(append(b, s.String()...), '\n')
	_, err := out.Write(b)
	return err
}

// measure decides how wide the columns are. A narrow terminal goes without what
// the sockets were selected by.
func (f *fateTable) measure(rows []*cull.Target) {
	const held = 15 + len("[4194304]") // TASK_COMM_LEN, and the highest PID
	widths := []int{len("unconfirmed"), len("ESTABLISHED"), len("LOCAL"), len("PEER"), len(">1234h59m"), held, len("WHY")}
	if !f.holders {
		widths[fateHeld] = hidden
	}
	var scratch []byte
	for _, t := range rows {
		scratch = t.Socket.Zoned(t.Socket.Src).AppendTo(scratch[:0])
		widths[fateLocal] = max(widths[fateLocal], len(scratch))
		scratch = t.Socket.Zoned(t.Socket.Dst).AppendTo(scratch[:0])
		widths[fatePeer] = max(widths[fatePeer], len(scratch))
		widths[fateWhy] = max(widths[fateWhy], utf8.RuneCountInString(t.Reason))
	}
	l := layout{narrows: make([]bool, len(widths)), spare: []int{fateState, fateAge}, last: []int{fateLocal}}
	for _, i := range []int{fateLocal, fatePeer, fateHeld, fateWhy} {
		l.narrows[i] = true
	}
	f.widths = l.fit(widths, f.fit)
}

// appendLine does without fmt: there may be very many lines.
func (f *fateTable) appendLine(b []byte, t *cull.Target) []byte {
	begin := len(b)
	b = f.end(append(b, t.Result...), begin, fateResult)
	begin = len(b)
	b = f.end(append(b, stateHead(t.Socket.State)...), begin, fateState)
	begin = len(b)
	b = f.end(t.Socket.Zoned(t.Socket.Src).AppendTo(b), begin, fateLocal)
	begin = len(b)
	b = f.end(t.Socket.Zoned(t.Socket.Dst).AppendTo(b), begin, fatePeer)
	begin = len(b)
	b = f.end(appendAge(b, t.Age.InState, t.Age.Known, t.Age.Exact), begin, fateAge)
	if f.holders {
		begin = len(b)
		b = f.end(appendHolders(b, t.Holders()), begin, fateHeld)
	}
	begin = len(b)
	return f.end(append(b, cmp.Or(t.Reason, "-")...), begin, fateWhy)
}

// end ends the cell that began there: with blanks, or the line after the last.
func (f *fateTable) end(b []byte, begin, column int) []byte {
	width := f.widths[column]
	if width == hidden {
		return b[:begin]
	}
	cells := utf8.RuneCount(b[begin:])
	if cells > width {
		b, cells = appendElided(b[:begin], b[begin:], width), width
	}
	if column == fateWhy {
		return append(b, '\n')
	}
	return appendBlanks(b, width-cells+gap)
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
