package rules

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Problem is one thing that is wrong, or unwise, in a rules file.
type Problem struct {
	Line   int    // from 1
	Column int    // from 1, in characters
	Msg    string // what is wrong and what to write instead
	Text   string // the line itself

	more int // problems that stand behind this one, the last, and are not told
}

// Problems are all that was found in one file, in the order of the file. As an
// error they mean that nothing of the file is in force. Of very many the first are
// told, and the others counted.
type Problems []Problem

// Count is the number of all problems.
func (ps Problems) Count() int { return len(ps) + ps.more() }

// more is the number of those that are not told.
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
	if more := ps.more(); more > 0 {
		fmt.Fprintf(&b, "%s: and %d more, which are not shown\n", file, more)
	}
	return b.String()
}

// excerptWidth is how many characters of a long line are shown.
const excerptWidth = 100

// excerpt cuts a line to what fits a terminal around the byte at, and returns how many
// cells stand before that.
func excerpt(line string, at int) (text string, caret int) {
	from := back(line, at, excerptWidth/2)
	to, missing := ahead(line, from, excerptWidth)
	from = back(line, from, missing)

	var b strings.Builder
	if from > 0 {
		b.WriteRune('…')
		caret++
	}
	for i, r := range line[from:to] {
		shown := printable(r)
		b.WriteString(shown)
		if from+i < at {
			caret += cells(shown)
		}
	}
	if to < len(line) {
		b.WriteRune('…')
	}
	return strings.TrimRight(b.String(), " "), caret
}

// back returns where the character begins that stands so many before the byte at.
func back(line string, at, characters int) int {
	for ; characters > 0 && at > 0; characters-- {
		_, size := utf8.DecodeLastRuneInString(line[:at])
		at -= size
	}
	return at
}

// ahead is back in the other direction; missing is how many characters there are too few.
func ahead(line string, at, characters int) (to, missing int) {
	for ; characters > 0 && at < len(line); characters-- {
		_, size := utf8.DecodeRuneInString(line[at:])
		at += size
	}
	return at, characters
}

// printable is r as it may safely reach a terminal: a tab has a fixed width, and
// a control character cannot move the cursor.
func printable(r rune) string {
	switch {
	case r == '\t':
		return "    "
	case unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || unicode.Is(unicode.Zl, r) || unicode.Is(unicode.Zp, r):
		return "\uFFFD"
	default:
		return string(r)
	}
}

// wide are the blocks that terminals draw two cells wide (UAX #11).
var wide = &unicode.RangeTable{
	R16: []unicode.Range16{
		{Lo: 0x1100, Hi: 0x115f, Stride: 1}, // Hangul Jamo
		{Lo: 0x2e80, Hi: 0x303e, Stride: 1}, // CJK radicals and punctuation
		{Lo: 0x3041, Hi: 0xa4cf, Stride: 1}, // Kana to Yi
		{Lo: 0xac00, Hi: 0xd7a3, Stride: 1}, // Hangul
		{Lo: 0xf900, Hi: 0xfaff, Stride: 1}, // CJK compatibility
		{Lo: 0xfe30, Hi: 0xfe6f, Stride: 1},
		{Lo: 0xff00, Hi: 0xff60, Stride: 1}, // full-width forms
		{Lo: 0xffe0, Hi: 0xffe6, Stride: 1},
	},
	R32: []unicode.Range32{
		{Lo: 0x1f300, Hi: 0x1f64f, Stride: 1}, // pictographs
		{Lo: 0x1f680, Hi: 0x1f6ff, Stride: 1},
		{Lo: 0x1f900, Hi: 0x1f9ff, Stride: 1},
		{Lo: 0x20000, Hi: 0x3fffd, Stride: 1}, // CJK extensions
	},
}

// cells is how many terminal cells s takes.
func cells(s string) int {
	n := 0
	for _, r := range s {
		switch {
		case unicode.In(r, unicode.Mn, unicode.Me):
		case unicode.Is(wide, r):
			n += 2
		default:
			n++
		}
	}
	return n
}
