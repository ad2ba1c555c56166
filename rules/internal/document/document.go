// Package document reads a YAML document by tables of its keys. Every value has its
// place, every mistake is reported there, and what YAML would twist without a word is
// a mistake.
package document

import (
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"gopkg.in/yaml.v3"

	"github.com/sockdog/sockdog/rules/internal/message"
)

const (
	// MaxBytes is the size of the largest document: what a ConfigMap holds.
	MaxBytes = 1 << 20
	// MaxValues is about how many values a document may hold, because the decoder makes
	// some 200 bytes of each.
	MaxValues = 60_000
	// maxAliased is by how much aliases may add to what is written out.
	maxAliased = 40_000
)

// Format says what may be shown of a document of some kind.
type Format struct {
	Open  []string // the keys at the top level below which no secret stands
	Named string   // the key at the top level below which the names of entries are no secret
	Words []string // words that are no secret wherever they stand
}

// Reader reads one document and collects what is wrong with it.
type Reader struct {
	collection
	format Format
	lines  []string

	Owner any // who reads the document: where its values find what they need

	// budget is how many more values may be read, by their cost. Without aliases none is
	// read twice, so that only an alias bomb uses it up.
	budget int

	hidden []bool          // by line, from 0: a secret may stand there; nil: not decoded
	words  map[string]bool // that are no secret
	at     cursor          // where the last node was
}

// Read reads a document and returns its root, or nil where there is nothing in it to
// trust. The error is that of the text; mistakes are reported.
func Read(text io.Reader, format Format) (*Reader, *yaml.Node, error) {
	var b strings.Builder
	if _, err := io.Copy(&b, io.LimitReader(text, MaxBytes+1)); err != nil {
		return nil, nil, fmt.Errorf("read rules: %w", err)
	}
	r := &Reader{format: format, words: map[string]bool{"<<": true}}
	for _, word := range format.Words {
		r.words[word] = true
	}
	if b.Len() > MaxBytes {
		r.reportAt(1, 1, "the file is larger than 1 MiB, the maximum: write long lists as ranges and networks")
		return r, nil, nil
	}
	all := strings.TrimPrefix(b.String(), "\xef\xbb\xbf")
	r.lines = strings.Split(all, "\n")
	if !r.checkCharacters() || !r.checkSize(all) {
		return r, nil, nil
	}
	root := r.decode(all)
	if root != nil {
		r.hide(root)
		r.check(root)
		r.budget += maxAliased
	}
	return r, root, nil
}

// checkCharacters reports the first character that has no place in a document. What
// YAML 1.1 takes for an end of line and an editor does not show as one (NEL, LS, PS, a
// lone CR) could hide a rule in a comment.
func (r *Reader) checkCharacters() bool {
	for number := 1; number <= len(r.lines); number++ {
		line, column := r.line(number), 0
		for at, c := range line {
			column++
			switch {
			case c >= ' ' && c <= '~', c == '\t':
			case c == utf8.RuneError && !strings.HasPrefix(line[at:], "\uFFFD"):
				r.reportAt(number, column, "the byte 0x%02x is not UTF-8: save the file as UTF-8 text", line[at])
				return false
			case unicode.IsControl(c), c == '\uFEFF', c == '\u2028', c == '\u2029', unicode.Is(unicode.Bidi_Control, c):
				r.reportAt(number, column, "the invisible character %U is not allowed here: remove it", c)
				return false
			}
		}
	}
	return true
}

// checkSize reports a text of too many values before the decoder makes nodes of them.
func (r *Reader) checkSize(text string) bool {
	n := CountValues(text)
	if n > MaxValues {
		r.reportAt(1, 1, "the file holds about %d values, and the maximum is %d: write long lists as ranges and networks", n, MaxValues)
	}
	return n <= MaxValues
}

// CountValues counts the lines that are not blank, and what parts values within a line,
// wherever that stands: in a comment too. No text has more than twice as many values.
func CountValues(text string) int {
	values, begun, last := 0, false, byte('\n')
	for i := range len(text) {
		c, next := text[i], byte('\n')
		if i+1 < len(text) {
			next = text[i+1]
		}
		switch {
		case c == '\n':
			begun = false
		case c == ' ' || c == '\t' || c == '\r':
		case !begun,
			c == ',', c == '[', c == '{', c == '#',
			(c == ':' || c == '-' || c == '?') && (strings.IndexByte(" \t\r\n,[]{}\"'", next) >= 0 || strings.IndexByte("\"']}", last) >= 0):
			begun = true
			values++
		}
		last = c
	}
	return values
}

// line returns the text of a line, of which the first is 1.
func (r *Reader) line(number int) string {
	if number < 1 || number > len(r.lines) {
		return ""
	}
	return strings.TrimSuffix(r.lines[number-1], "\r")
}

// from returns the text of a node's line from where the node begins.
func (r *Reader) from(n *yaml.Node) string {
	line := r.line(n.Line)
	if at, ok := r.at.seek(line, n.Column); ok {
		return line[at:]
	}
	return ""
}

// ReportWithin reports a mistake at a byte of a scalar's value: at its place in the text,
// or where the scalar stands if that is folded, takes several lines in quotes, or holds
// unusual escapes before it.
func (r *Reader) ReportWithin(n *yaml.Node, offset int, msg string) {
	line, column := r.within(n, offset)
	r.reportAt(line, column, "%s", message.Phrase(msg))
}

// escapes are the usual ones in double quotes.
var escapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`)

func (r *Reader) within(n *yaml.Node, offset int) (line, column int) {
	before, after := n.Value[:min(offset, len(n.Value))], n.Value[min(offset, len(n.Value)):]
	if n.Style == yaml.LiteralStyle {
		line := n.Line + 1 + strings.Count(before, "\n") // the first is that of the |
		before = before[strings.LastIndex(before, "\n")+1:]
		after, _, _ = strings.Cut(after, "\n")
		indent, ok := strings.CutSuffix(r.line(line), before+after)
		if !ok || strings.Trim(indent, " ") != "" {
			return n.Line, n.Column
		}
		return line, len(indent) + utf8.RuneCountInString(before) + 1
	}
	source := r.from(n)
	skipped := 0
	if strings.HasPrefix(source, "&") {
		value := strings.TrimLeft(source[len(anchorName(source)):], " \t")
		source, skipped = value, len(source)-len(value)
	}
	switch n.Style {
	case yaml.SingleQuotedStyle:
		before = "'" + strings.ReplaceAll(before, "'", "''")
	case yaml.DoubleQuotedStyle:
		before = `"` + escapes.Replace(before)
	}
	if !strings.HasPrefix(source, before) {
		return n.Line, n.Column
	}
	return n.Line, n.Column + skipped + utf8.RuneCountInString(before)
}
