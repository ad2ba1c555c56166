package document

import "strings"

// flow walks the values in [ ] and { } of a text that is no YAML, to find where it first goes
// wrong: the decoder tells a line behind that.
type flow struct {
	open   []entry // what is open, the innermost last
	quote  byte    // that a value in quotes ends with, or 0
	begins bool    // a value may begin here
	ended  bool    // a value that needs no end of its own has ended: in quotes, or in [ ] and { }
	word   int     // where the last word of a plain value begins
}

// entry is what was met of an entry of what is open.
type entry struct {
	end   byte // what closes the whole
	colon bool
}

// The mistakes.
const (
	noMistake = ""
	isTag     = "YAML reads a value that begins with ! as a tag: put it in quotes"
	noComma   = "a comma is missing before this"
	isColon   = "within [ ] and { } a value cannot begin with a colon: put it in quotes, such as \"::1\""
	isStray   = "this bracket has no partner: one before it is not closed, or this one is too many"
	notClosed = "a [ or { before this is not closed, or a comma is missing"
)

// mistake finds the first mistake within the lines, and at which byte of which line it is.
func (r *Reader) mistake(first, last int) (line, at int, msg string) {
	var f flow
	for line = max(first, 1); line <= min(last, len(r.lines)); line++ {
		if at, msg = f.inLine(r.line(line)); msg != noMistake {
			if msg == noComma && at == len(indentation(r.line(line))) {
				msg = notClosed
			}
			return line, at, msg
		}
	}
	return 0, 0, noMistake
}

// inLine returns the first mistake of a line.
func (f *flow) inLine(line string) (at int, msg string) {
	if f.word = -1; len(f.open) == 0 && f.quote == 0 {
		f.start()
	}
	for i := 0; i < len(line); i++ {
		c, next := line[i], byte(' ')
		if i+1 < len(line) {
			next = line[i+1]
		}
		switch {
		case f.quote != 0:
			if c == '\\' && f.quote == '"' {
				i++
			} else if c == f.quote {
				f.quote, f.ended = 0, true
			}
		case c == ' ' || c == '\t':
			f.word = -1
		case c == '#' && (i == 0 || line[i-1] == ' ' || line[i-1] == '\t'):
			return 0, noMistake
		case c == '&' && f.begins:
			i += len(anchorName(line[i:])) - 1
		default:
			if msg := f.next(i, c, next); msg != noMistake {
				return max(f.word, 0), msg
			}
		}
	}
	return 0, noMistake
}

// next takes in a character that is not blank, and stands in no quotes.
func (f *flow) next(i int, c, next byte) (msg string) {
	if f.word < 0 {
		f.word = i
	}
	within := len(f.open) > 0
	separates := strings.IndexByte(" \t,[]{}", next) >= 0
	switch {
	case within && c == ',':
		f.open[len(f.open)-1].colon = false
		f.start()
	case (c == ']' || c == '}') && (within && f.open[len(f.open)-1].end != c || !within && f.ended):
		f.word = i
		return isStray
	case within && (c == ']' || c == '}'):
		f.open = f.open[:len(f.open)-1]
		f.begins, f.ended, f.word = false, true, -1
	case c == ':' && !f.begins && (separates || f.ended):
		if within && f.open[len(f.open)-1].colon {
			return noComma
		}
		if within {
			f.open[len(f.open)-1].colon = true
		}
		f.start()
	case within && f.ended, within && !f.begins && (c == '[' || c == '{'):
		f.word = i
		return noComma
	case f.begins && (c == '[' || c == '{'):
		f.open = append(f.open, entry{end: c + 2}) // as ASCII has them
		f.start()
	case f.begins && (c == '"' || c == '\''):
		f.quote, f.begins = c, false
	case f.begins && c == '!' && within:
		return isTag
	case f.begins && c == ':' && within && next == ':':
		return isColon
	case !within && c == '-' && separates:
		f.start()
	default:
		f.begins, f.ended = false, false
	}
	return noMistake
}

// start has a value begin with the next character.
func (f *flow) start() { f.begins, f.ended, f.word = true, false, -1 }
