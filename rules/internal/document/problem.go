package document

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/sockdog/sockdog/internal/term"
)

// Problem is one thing that is wrong, or unwise, in a rules file.
type Problem struct {
	Line   int    // from 1
	Column int    // from 1, in characters
	Msg    string // what is wrong and what to write instead
	Text   string // the line itself

	masked bool // Text shows no values
	more   int  // problems that stand behind this one, the last, and are not shown
}

// Problems are all that was found in one file, in the order of the file. As an
// error they mean that nothing of the file is in force. Of very many the first are
// shown, and the others counted.
type Problems []Problem

// Count is the number of all problems.
func (ps Problems) Count() int { return len(ps) + ps.more() }

// more is the number of those that are not shown.
func (ps Problems) more() int {
	if len(ps) == 0 {
		return 0
	}
	return ps[len(ps)-1].more
}

// Error lists the problems on one line, without their excerpts.
func (ps Problems) Error() string {
	var b strings.Builder
	for i, p := range ps {
		if i > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "line %d, column %d: %s", p.Line, p.Column, p.Msg)
	}
	if more := ps.more(); more > 0 {
		fmt.Fprintf(&b, "; and %d more", more)
	}
	return b.String()
}

// Report prints each problem as "file:line:column: message", with its line of
// the file and a caret below.
func (ps Problems) Report(file string) string {
	var b strings.Builder
	var at cursor
	for _, p := range ps {
		fmt.Fprintf(&b, "%s:%d:%d: %s\n", file, p.Line, p.Column, p.Msg)
		if p.Text != "" {
			at.seek(p.Text, max(p.Column, 1))
			text, caret := excerpt(p.Text, at.offset)
			number := fmt.Sprintf("%5d", p.Line)
			fmt.Fprintf(&b, "%s | %s\n%*s | %s^\n", number, text, len(number), "", strings.Repeat(" ", caret))
		}
	}
	if slices.ContainsFunc(ps, func(p Problem) bool { return p.masked }) {
		fmt.Fprintf(&b, "%s: • stands for what is not shown, because it may be the secret of a receiver\n", file)
	}
	if more := ps.more(); more > 0 {
		fmt.Fprintf(&b, "%s: and %d more, which are not shown\n", file, more)
	}
	return b.String()
}

// excerptWidth is how many characters of a long line are shown.
const excerptWidth = 100

// excerpt cuts a line to what fits a terminal around the byte at, and returns how many
// cells stand before that. A tab has a fixed width.
func excerpt(line string, at int) (text string, caret int) {
	// A line may be long: no character has more than four bytes.
	first, last := max(0, at-4*excerptWidth), min(len(line), at+4*excerptWidth)
	for first > 0 && !utf8.RuneStart(line[first]) {
		first--
	}
	before, after := []rune(line[first:at]), []rune(line[at:last])
	right := min(len(after), max(excerptWidth/2, excerptWidth-len(before)))
	left := min(len(before), excerptWidth-right)
	shown := func(text []rune) string {
		return term.Printable(strings.ReplaceAll(string(text), "\t", "    "))
	}
	text = shown(before[len(before)-left:])
	if first > 0 || left < len(before) {
		text = "…" + text
	}
	caret = term.Width(text)
	text += shown(after[:right])
	if last < len(line) || right < len(after) {
		text += "…"
	}
	return strings.TrimRight(text, " "), caret
}

// cursor finds characters of a line by their number. It goes on from where it was: a
// file may be one line of a megabyte.
type cursor struct {
	line   string
	column int // from 1; 0: nowhere yet
	offset int // where that character begins
}

// seek returns where the character begins; the end of a line counts as one more.
func (c *cursor) seek(line string, column int) (offset int, ok bool) {
	if column < 1 {
		return 0, false
	}
	if c.column == 0 || c.line != line || column < c.column/2 {
		*c = cursor{line: line, column: 1}
	}
	for c.column < column && c.offset < len(line) {
		_, size := utf8.DecodeRuneInString(line[c.offset:])
		c.offset += size
		c.column++
	}
	for c.column > column {
		_, size := utf8.DecodeLastRuneInString(line[:c.offset])
		c.offset -= size
		c.column--
	}
	return c.offset, c.column == column
}
