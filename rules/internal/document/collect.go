package document

import (
	"cmp"
	"slices"

	"gopkg.in/yaml.v3"

	"github.com/sockdog/sockdog/rules/internal/message"
)

// MaxProblems is how many problems of a document are shown. The others are counted.
const MaxProblems = 100

// A collection is what is wrong with a document, in the order in which it was found.
type collection struct {
	findings []finding
	again    int // problems that were met once more
}

// finding is a problem at its place as the decoder has it. Its words are put together
// where they are shown.
type finding struct {
	line, column int
	words        error
}

// Report adds a problem at a node.
func (c *collection) Report(n *yaml.Node, format string, args ...any) {
	c.reportAt(n.Line, n.Column, format, args...)
}

// reportAt adds a problem.
func (c *collection) reportAt(line, column int, format string, args ...any) {
	c.findings = append(c.findings, finding{line, column, message.Errorf(format, args...)})
}

// Reports is how many problems were reported so far, the same ones too.
func (c *collection) Reports() int { return len(c.findings) + c.again }

// Again notes that a problem which was reported was met once more.
func (c *collection) Again() { c.again++ }

// Forget leaves no problem reported.
func (c *collection) Forget() { *c = collection{} }

// inOrder returns what was found in the order of the document, each once: where there are
// aliases, the same is found again and again.
func (c *collection) inOrder() (all []finding) {
	byPlace := func(a, b finding) int { return cmp.Or(cmp.Compare(a.line, b.line), cmp.Compare(a.column, b.column)) }
	slices.SortStableFunc(c.findings, byPlace)
	type place struct {
		line, column int
		words        string
	}
	said := map[place]bool{}
	for i, f := range c.findings {
		beside := func(i int) bool { return i >= 0 && i < len(c.findings) && byPlace(c.findings[i], f) == 0 }
		if beside(i-1) || beside(i+1) { // else its words are not needed
			at := place{f.line, f.column, f.words.Error()}
			if said[at] {
				continue
			}
			said[at] = true
		}
		all = append(all, f)
	}
	return all
}

// Problems returns what was reported in the order of the document, each moved into the
// text where YAML's position lies behind its end.
func (r *Reader) Problems() Problems {
	found := r.inOrder()
	var all Problems
	var at cursor
	masked, hidden := "", 0 // the line that was masked last, and its number
	for _, f := range found[:min(len(found), MaxProblems)] {
		problem := Problem{Line: 1, Column: 1, Msg: f.words.Error()}
		if len(r.lines) > 0 {
			problem.Line = min(max(f.line, 1), len(r.lines))
			problem.Text = r.line(problem.Line)
			at.seek(problem.Text, max(f.column, 1))
			problem.Column = at.column
			if r.hides(problem.Line) {
				if hidden != problem.Line {
					masked, hidden = r.masked(problem.Text), problem.Line
				}
				problem.masked = masked != problem.Text
				problem.Text = masked
			}
		}
		all = append(all, problem)
	}
	if all = slices.Compact(all); len(found) > MaxProblems {
		all[len(all)-1].more = len(found) - MaxProblems
	}
	return all
}
