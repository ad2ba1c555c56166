package document

import (
	"strings"
	"unicode/utf8"
)

// lines is a text by its lines.
type lines struct {
	text   string
	starts []int32 // where each line begins
}

func newLines(text string) lines {
	starts := make([]int32, 1, 1+strings.Count(text, "\n"))
	for at := range len(text) {
		if text[at] == '\n' {
			starts = append(starts, int32(at+1))
		}
	}
	return lines{text, starts}
}

// lineCount is the number of lines; 0 before there is a text.
func (l *lines) lineCount() int { return len(l.starts) }

// line returns the text of a line, of which the first is 1.
func (l *lines) line(number int) string {
	if number < 1 || number > len(l.starts) {
		return ""
	}
	end := len(l.text)
	if number < len(l.starts) {
		end = int(l.starts[number]) - 1
	}
	return strings.TrimSuffix(l.text[l.starts[number-1]:end], "\r")
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
