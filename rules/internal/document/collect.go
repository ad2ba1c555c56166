package document

import (
	"cmp"
	"slices"

	"gopkg.in/yaml.v3"

	"github.com/sockdog/sockdog/rules/internal/message"
)

// MaxProblems is how many problems of a document are shown. The others are counted.
const MaxProblems = 100

// A collection is what is wrong with a document: the problems that stand first in it, and
// the number of the others.
type collection struct {
	problems []finding
	limit    *origin // what does not stand before this is only counted; nil: nothing yet
	more     int     // are only counted
	reports  int     // that were made, of the same ones too

	// Where there are aliases the same is found again and again. What is only counted
	// is counted once by its place and the form of its message.
	aliases bool
	counted map[origin]bool
}

// finding is a problem at its place as the decoder has it, without its excerpt.
type finding struct {
	origin
	msg string
}

// origin is where a problem stands, and the form of its message.
type origin struct {
	line, column int
	form         string
}

func byPlace(a, b origin) int {
	return cmp.Or(cmp.Compare(a.line, b.line), cmp.Compare(a.column, b.column))
}

// Shows reports whether a problem at a node would be shown. Where it would not,
// nothing need be found out for its words.
func (c *collection) Shows(n *yaml.Node) bool {
	return c.limit == nil || byPlace(origin{line: n.Line, column: n.Column}, *c.limit) < 0
}

// Report adds a problem at a node.
func (c *collection) Report(n *yaml.Node, format string, args ...any) {
	c.reportAt(n.Line, n.Column, format, args...)
}

// reportAt adds a problem.
func (c *collection) reportAt(line, column int, format string, args ...any) {
	c.reports++
	o := origin{line, column, format}
	if c.limit != nil && byPlace(o, *c.limit) >= 0 {
		c.count(o)
		return
	}
	c.problems = append(c.problems, finding{o, message.Errorf(format, args...).Error()})
	if len(c.problems) == 2*MaxProblems {
		c.cut()
	}
}

func (c *collection) count(o origin) {
	if c.aliases {
		if c.counted[o] {
			return
		}
		if c.counted == nil {
			c.counted = map[origin]bool{}
		}
		c.counted[o] = true
	}
	c.more++
}

// cut puts the problems in the order of the file, each once, and keeps the first.
func (c *collection) cut() {
	slices.SortStableFunc(c.problems, func(a, b finding) int { return byPlace(a.origin, b.origin) })
	c.problems = slices.Compact(c.problems)
	if len(c.problems) <= MaxProblems {
		return
	}
	for _, f := range c.problems[MaxProblems:] {
		c.count(f.origin)
	}
	c.limit = &c.problems[MaxProblems].origin
	c.problems = slices.Clone(c.problems[:MaxProblems])
}

// Reports is how many problems were reported so far, the same ones too.
func (c *collection) Reports() int { return c.reports }

// Again notes that a problem which was reported was met once more.
func (c *collection) Again() { c.reports++ }

// Forget leaves no problem reported.
func (c *collection) Forget() { *c = collection{aliases: c.aliases} }

// Problems returns what was reported in the order of the document, each moved into the
// text where YAML's position lies behind its end.
func (r *Reader) Problems() Problems {
	r.cut()
	var all Problems
	var at cursor
	masked, hidden := "", 0 // the line that was masked last, and its number
	for _, f := range r.problems {
		problem := Problem{Line: 1, Column: 1, Msg: f.msg}
		if lines := r.lineCount(); lines > 0 {
			problem.Line = min(max(f.line, 1), lines)
			problem.Text = r.line(problem.Line)
			at.seek(problem.Text, max(f.column, 1))
			problem.Column = at.column
			if r.hides(problem.Line) {
				if hidden != problem.Line {
					masked, hidden = r.masked(problem.Text), problem.Line
				}
				problem.Text = masked
			}
		}
		all = append(all, problem)
	}
	if all = slices.Compact(all); r.more > 0 {
		all[len(all)-1].more = r.more
	}
	return all
}
