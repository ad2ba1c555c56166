package document

import (
	"errors"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"

	"github.com/sockdog/sockdog/rules/internal/message"
)

// decode parses the text as one YAML document. It returns nil after a problem.
func (r *Reader) decode(text string) *yaml.Node {
	lines := &lineReader{rest: text}
	decoder := yaml.NewDecoder(lines)
	var doc, second yaml.Node
	err := decoder.Decode(&doc)
	if errors.Is(err, io.EOF) || err == nil && doc.Content[0].Kind == yaml.ScalarNode && IsNull(doc.Content[0]) {
		r.reportAt(1, 1, "the file holds no rules: write them below a line \"rules:\", or write \"rules: []\" to watch nothing")
		return nil
	}
	if err == nil {
		err = decoder.Decode(&second)
		if errors.Is(err, io.EOF) {
			return doc.Content[0]
		}
		if err == nil {
			r.Report(&second, "a second document begins here, and would be ignored: keep one, and remove the line \"---\"")
			return nil
		}
	}
	r.reportSyntax(err, lines.line)
	return nil
}

// lineReader hands out one line a call, so that when the decoder gives up the
// line that it had come to is known.
type lineReader struct {
	rest string
	line int
	part bool // of a line that did not fit is still to be read
}

func (r *lineReader) Read(buf []byte) (int, error) {
	if len(r.rest) == 0 {
		return 0, io.EOF
	}
	if !r.part {
		r.line++
	}
	line := r.rest
	if end := strings.IndexByte(line, '\n'); end >= 0 {
		line = line[:end+1]
	}
	n := copy(buf, line)
	r.rest, r.part = r.rest[n:], n < len(line)
	return n, nil
}

// reportSyntax explains an error of the YAML decoder. Its scanner names the line
// of the error (none for the first); its parser ("did not find expected ...")
// names the line before the collection that it was in, and there the line that
// was read last is nearer.
func (r *Reader) reportSyntax(err error, lastRead int) {
	msg, isYAML := strings.CutPrefix(err.Error(), "yaml: ")
	if !isYAML {
		r.reportAt(lastRead, 1, "not YAML: %v", err)
		return
	}
	line, named := 0, 0
	if rest, numbered := strings.CutPrefix(msg, "line "); numbered {
		number, rest, _ := strings.Cut(rest, ": ")
		line, _ = strconv.Atoi(number)
		named = line
		msg = rest
	}
	if anchor, unknown := strings.CutPrefix(msg, "unknown anchor '"); unknown {
		anchor = strings.TrimSuffix(anchor, "' referenced")
		line = lastRead
		msg = message.Errorf("this alias has no anchor &%s before it", anchor).Error()
		if r.hides(line) {
			msg = "this alias has no anchor before it: put a value that begins with * in quotes"
		}
		if at := strings.Index(r.line(line), "*"+anchor); at >= 0 {
			r.reportAt(line, utf8.RuneCountInString(r.line(line)[:at])+1, "%s", message.Phrase(msg))
			return
		}
	} else if strings.HasPrefix(msg, "did not find expected") && !strings.Contains(msg, "comment or line break") {
		line = lastRead
	}
	if indent := indentation(r.line(lastRead)); strings.Contains(indent, "\t") {
		line = lastRead
	}
	if r.reportInFlow(msg, named, lastRead) {
		return
	}
	line = min(max(line, 1), len(r.lines))
	if at := badStart(r.line(line)); at >= 0 && (strings.Contains(msg, "cannot start any token") || strings.Contains(msg, "comment or line break")) {
		r.reportAt(line, utf8.RuneCountInString(r.line(line)[:at])+1, "%s", message.Phrase(explainStart(r.line(line)[at])))
		return
	}
	if strings.Contains(msg, "mapping values are not allowed") || strings.Contains(msg, "could not find expected ':'") {
		for _, number := range []int{line - 1, line} {
			if at, name := r.joined(r.line(number)); name != "" {
				r.reportAt(number, at+1, "%s", missingBlank(name))
				return
			}
		}
	}
	indent := indentation(r.line(line))
	column := len(indent)
	if tab := strings.Index(indent, "\t"); tab >= 0 {
		column = tab
	}
	r.reportAt(line, column+1, "%s", message.Phrase(explain(msg, indent)))
}

// reportInFlow reports the first mistake within [ ] or { }, if the error may come of one: where the
// decoder tells it, it names the line before the collection, and else it may have gone on to the
// next line.
func (r *Reader) reportInFlow(msg string, named, lastRead int) bool {
	if !strings.HasPrefix(msg, "did not find expected") || strings.Contains(msg, "comment or line break") {
		return false
	}
	inFlow := strings.Contains(msg, "expected ',' or") || strings.Contains(msg, "node content")
	first := named + 1
	if !inFlow {
		first = lastRead - 1
	}
	line, at, what := r.mistake(first, lastRead)
	if what == noMistake || !inFlow && what != isTag && what != isStray {
		return false
	}
	r.reportAt(line, utf8.RuneCountInString(r.line(line)[:at])+1, "%s", message.Phrase(what))
	return true
}

// joined returns the known key that a line begins with, and where, if no blank follows its
// colon; else "".
func (r *Reader) joined(line string) (at int, name string) {
	text := strings.TrimLeft(line, " \t-")
	name, value, _ := strings.Cut(text, ":")
	if value == "" || strings.ContainsAny(value[:1], " \t") || !r.words[name] {
		return 0, ""
	}
	return len(line) - len(text), name
}

// missingBlank says that a known key and its value are one word.
func missingBlank(key string) message.Phrase {
	return message.Phrase("a blank is missing after the colon of " + key)
}

// badStart returns where the first plain value of a line stands that begins with a
// character which none can begin with, or -1. Each follows what a value follows.
func badStart(line string) int {
	quote, begins := byte(0), true
	for i := range len(line) {
		switch c := line[i]; {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == ' ' || c == '\t':
			continue
		case begins && (c == '"' || c == '\''):
			quote = c
		case begins && strings.IndexByte("@`%>|", c) >= 0:
			return i
		case begins && c == '#':
			return -1
		}
		begins = quote == 0 && strings.IndexByte("[{,:-?", line[i]) >= 0
	}
	return -1
}

// explainStart says what to do about a value that begins with that character.
func explainStart(c byte) string {
	if c == '>' || c == '|' {
		return "a plain value cannot begin with > or |: put it in quotes, such as \"> 1\""
	}
	return "a plain value cannot begin with @, ` or %: put it in quotes"
}

// indentation returns the blanks at the beginning of a line.
func indentation(line string) string {
	return line[:len(line)-len(strings.TrimLeft(line, " \t"))]
}

// explain turns what the YAML decoder says into what to do about it.
func explain(msg, indent string) string {
	switch {
	case strings.Contains(indent, "\t"):
		return "the line is indented with a tab: YAML wants spaces"
	case strings.Contains(msg, "cannot start any token"):
		return explainStart('@')
	case strings.Contains(msg, "block sequence entries are not allowed"):
		return "a list cannot begin on the line of its key: put the first \"- \" on a line of its own"
	case strings.Contains(msg, "unknown escape"):
		return "in double quotes a backslash must be written twice; in single quotes it stands for itself"
	case strings.Contains(msg, "mapping values are not allowed"):
		return "a key cannot be here: check the indentation, and put a value that holds \": \" in quotes"
	case strings.Contains(msg, "could not find expected ':'"):
		return "this line is not \"key: value\": a colon is missing, or a quote is not closed"
	case strings.Contains(msg, "comment or line break"):
		return explainStart('>')
	case strings.Contains(msg, "expected ',' or"):
		return "a [ or { before this is not closed, or a comma is missing"
	case strings.Contains(msg, "unexpected end of stream"):
		return "a quote is opened and not closed"
	case strings.Contains(msg, "node content"):
		return "a [ or { is not closed, a value is missing, or one begins with a sign that has a meaning in YAML: put it in quotes (within [ ] and { }, an IPv6 address that begins with : too)"
	case strings.HasPrefix(msg, "did not find expected"):
		return "the indentation does not fit the lines above"
	default:
		return "not YAML: " + msg
	}
}
