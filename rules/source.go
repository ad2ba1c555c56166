package rules

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

const (
	// maxBytes is the size of the largest rules file: what a ConfigMap holds.
	maxBytes = 1 << 20
	// maxValues is about how many values a file may hold, because the decoder makes some
	// 200 bytes of each.
	maxValues = 60_000
	// maxAliased is by how much aliases may add to what is written out.
	maxAliased = 40_000
)

// A parser reads one rules file and collects what is wrong with it.
type parser struct {
	lines
	collection
	kinds []*Kind // that then may name

	// budget is how many more values may be read, by their cost. Without aliases none is
	// read twice, so that only an alias bomb uses it up.
	budget int

	// hidden are the lines, from 0, in which a secret may stand; nil: the text is not
	// decoded, or not yet. names are the words that are none.
	hidden []bool
	names  map[string]bool

	pairs int                 // were compared by lint
	at    cursor              // where the last node was
	users map[string]lookedUp // by name

	// The templates that were read, the bytes of all, and how many branches of bodies may
	// still be tried.
	templates    map[templateKey]readTemplate
	templateText int
	bodyTries    int
}

// newParser reads the text. It reports false where the text is not one that
// YAML can be trusted with.
func newParser(r io.Reader) (*parser, bool, error) {
	var text strings.Builder
	if _, err := io.Copy(&text, io.LimitReader(r, maxBytes+1)); err != nil {
		return nil, false, fmt.Errorf("read rules: %w", err)
	}
	p := &parser{
		names: map[string]bool{"<<": true}, users: map[string]lookedUp{},
		templates: map[templateKey]readTemplate{}, bodyTries: maxBodyTries,
	}
	for _, names := range [][]string{
		fileTable.names(), choiceTable.names(), addressTable(Webhook).names(), basicAuthTable.names(), tlsTable.names(),
	} {
		for _, name := range names {
			p.names[name] = true
		}
	}
	if text.Len() > maxBytes {
		p.reportAt(1, 1, "the file is larger than 1 MiB, the most that is read: write long lists as ranges and networks")
		return p, false, nil
	}
	p.lines = newLines(strings.TrimPrefix(text.String(), "\xef\xbb\xbf"))
	return p, p.checkCharacters() && p.checkSize(), nil
}

// checkCharacters reports the first character that has no place in a rules file.
// What YAML 1.1 takes for an end of line and an editor does not show as one
// (NEL, LS, PS, a lone CR) could hide a rule in a comment.
func (p *parser) checkCharacters() bool {
	for number := 1; number <= p.lineCount(); number++ {
		line, column := p.line(number), 0
		for at, r := range line {
			column++
			switch {
			case r >= ' ' && r <= '~', r == '\t':
			case r == utf8.RuneError && !strings.HasPrefix(line[at:], "\uFFFD"):
				p.reportAt(number, column, "the byte 0x%02x is not UTF-8: save the file as UTF-8 text", line[at])
				return false
			case unicode.IsControl(r), r == '\uFEFF', r == '\u2028', r == '\u2029', unicode.Is(unicode.Bidi_Control, r):
				p.reportAt(number, column, "the invisible character %U is not allowed here: remove it", r)
				return false
			}
		}
	}
	return true
}

// checkSize reports a text of too many values before the decoder makes nodes of them.
func (p *parser) checkSize() bool {
	if n := countValues(p.text); n > maxValues {
		p.reportAt(1, 1, "the file holds some %d values, and %d are the most that are read: write long lists as ranges and networks", n, maxValues)
		return false
	}
	return true
}

// countValues counts the lines that are not blank, and what parts values within a line,
// wherever that stands: in a comment too. No text has more than twice as many values.
func countValues(text string) int {
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

// open are the keys at the top level whose values are shown in excerpts. All else may
// be the receivers, or meant to be.
var open = []string{"version", "settings", "protect", "rules"}

// hide finds the lines of what is not open, of keys that begin with x- those alone that
// the receivers take something from.
func (p *parser) hide(root *yaml.Node) {
	if root.Kind != yaml.MappingNode {
		return
	}
	p.hidden = make([]bool, p.lineCount())
	taken, walked := map[*yaml.Node]bool{}, map[*yaml.Node]bool{}
	closed := func(key *yaml.Node) bool {
		return !slices.Contains(open, key.Value) && !strings.HasPrefix(key.Value, "x-")
	}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		if closed(key) {
			aliased(value, taken, walked)
		}
		if key.Value == "receivers" {
			for j, n := range target(value).Content {
				if j%2 == 0 && ruleNames.MatchString(n.Value) {
					p.names[n.Value] = true
				}
			}
		}
	}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key := root.Content[i]
		if !closed(key) && !within(root.Content[i+1], taken) {
			continue
		}
		end := p.lineCount()
		if i+2 < len(root.Content) { // the line of the next key too, where something stands before that
			next := root.Content[i+2]
			end = next.Line
			if indentation(p.line(end))+p.from(next) == p.line(end) {
				end--
			}
		}
		for line := key.Line; line <= end; line++ {
			p.hidden[line-1] = true
		}
	}
}

// aliased collects what the aliases within a node stand for. What has an anchor is
// walked once.
func aliased(n *yaml.Node, into, walked map[*yaml.Node]bool) {
	if n.Kind == yaml.AliasNode {
		into[n.Alias] = true
		n = n.Alias
	}
	if n.Anchor != "" {
		if walked[n] {
			return
		}
		walked[n] = true
	}
	for _, c := range n.Content {
		aliased(c, into, walked)
	}
}

// within reports whether one of the nodes is n or stands in it.
func within(n *yaml.Node, nodes map[*yaml.Node]bool) bool {
	return nodes[n] || slices.ContainsFunc(n.Content, func(c *yaml.Node) bool { return within(c, nodes) })
}

// hides reports whether a line may hold a secret. Of a text that is no YAML only what
// is below an open key that begins its line is known to hold none.
func (p *parser) hides(line int) bool {
	line = min(max(line, 1), p.lineCount())
	if p.hidden != nil {
		return p.hidden[line-1]
	}
	begun := 1
	for begun <= p.lineCount() && aside.MatchString(p.line(begun)) {
		begun++
	}
	if begun <= p.lineCount() && !topLevel.MatchString(p.line(begun)) {
		return true
	}
	for ; line >= begun; line-- {
		switch found := topLevel.FindStringSubmatch(p.line(line)); {
		case found != nil:
			return !slices.Contains(open, found[1])
		case strings.IndexAny(p.line(line), " \t#-]}") != 0 && p.line(line) != "":
			return true
		}
	}
	return false
}

var (
	topLevel = regexp.MustCompile(`^["']?([A-Za-z0-9_-]+)["']?[ \t]*:`)
	aside    = regexp.MustCompile(`^[ \t]*($|#)|^---[ \t]*$`) // what no key need stand before
)

// masked is a line with a dot for each character that is not of a known name, because it
// may be of a secret, and excerpts end in logs. Punctuation stays, and so does the column
// of everything.
func (p *parser) masked(line string) string {
	if len(line) > maxMasked {
		return strings.Map(func(r rune) rune {
			if strings.ContainsRune(" \t{}[],", r) {
				return r
			}
			return '•'
		}, line)
	}
	return token.ReplaceAllStringFunc(line, func(t string) string {
		rest, isKey := strings.CutSuffix(t, ":")
		if t == "-" || isKey && p.names[strings.Trim(rest, `"'`)] {
			return t
		}
		quote, end := "", t[len(rest):]
		if rest != "" && strings.ContainsAny(rest[:1], `"'`) {
			quote, rest = rest[:1], rest[1:]
			if body, closed := strings.CutSuffix(rest, quote); closed {
				rest, end = body, quote+end
			}
		}
		return quote + strings.Repeat("•", utf8.RuneCountInString(rest)) + end
	})
}

// maxMasked is how long a line is whose names are looked for.
const maxMasked = 10_000

var token = regexp.MustCompile(`"(?:[^"\\]|\\.)*(?:"|\\?$):?|'[^']*(?:''[^']*)*'?:?|[^\s{}\[\],]+`)

// mayQuote reports whether a message about a node can repeat a name: one that cannot be
// a URL or a header in the wrong place, or that stands where there are no secrets.
func (p *parser) mayQuote(n *yaml.Node, name string) bool {
	return !p.hides(n.Line) || harmless.MatchString(name)
}

var harmless = regexp.MustCompile(`^[A-Za-z0-9_-]{1,40}$`)

// decode parses the text as one YAML document. It returns nil after a problem.
func (p *parser) decode() *yaml.Node {
	lines := &lineReader{rest: p.text}
	decoder := yaml.NewDecoder(lines)
	var doc, second yaml.Node
	err := decoder.Decode(&doc)
	if errors.Is(err, io.EOF) || err == nil && doc.Content[0].Kind == yaml.ScalarNode && isNull(doc.Content[0]) {
		p.reportAt(1, 1, "the file holds no rules: write them below a line \"rules:\", or write \"rules: []\" to watch nothing")
		return nil
	}
	if err == nil {
		err = decoder.Decode(&second)
		if errors.Is(err, io.EOF) {
			return doc.Content[0]
		}
		if err == nil {
			p.report(&second, "a second document begins here, and would be ignored: keep one, and remove the line \"---\"")
			return nil
		}
	}
	p.reportSyntax(err, lines.line)
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
func (p *parser) reportSyntax(err error, lastRead int) {
	msg, isYAML := strings.CutPrefix(err.Error(), "yaml: ")
	if !isYAML {
		p.reportAt(lastRead, 1, "not YAML: %v", err)
		return
	}
	line := 0
	if rest, numbered := strings.CutPrefix(msg, "line "); numbered {
		number, rest, _ := strings.Cut(rest, ": ")
		line, _ = strconv.Atoi(number)
		msg = rest
	}
	if anchor, unknown := strings.CutPrefix(msg, "unknown anchor '"); unknown {
		anchor = strings.TrimSuffix(anchor, "' referenced")
		line = lastRead
		msg = errorf("no anchor &%s stands before this alias", anchor).Error()
		if p.hides(line) {
			msg = "its anchor does not stand before this alias: put a value that begins with * in quotes"
		}
		if at := strings.Index(p.line(line), "*"+anchor); at >= 0 {
			p.reportAt(line, utf8.RuneCountInString(p.line(line)[:at])+1, "%s", phrase(msg))
			return
		}
	} else if strings.HasPrefix(msg, "did not find expected") && !strings.Contains(msg, "comment or line break") {
		line = lastRead
	}
	if indent := indentation(p.line(lastRead)); strings.Contains(indent, "\t") {
		line = lastRead
	}
	line = min(max(line, 1), p.lineCount())
	if at := badStart(p.line(line)); at >= 0 && (strings.Contains(msg, "cannot start any token") || strings.Contains(msg, "comment or line break")) {
		p.reportAt(line, utf8.RuneCountInString(p.line(line)[:at])+1, "%s", phrase(explainStart(p.line(line)[at])))
		return
	}
	indent := indentation(p.line(line))
	column := len(indent)
	if tab := strings.Index(indent, "\t"); tab >= 0 {
		column = tab
	}
	p.reportAt(line, column+1, "%s", phrase(explain(msg, indent)))
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
		return "a key stands where none can be: check the indentation, and put a value that holds \": \" in quotes"
	case strings.Contains(msg, "could not find expected ':'"):
		return "this line is no \"key: value\": a colon is missing, or a quote is not closed"
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

// from returns the text of a node's line from where the node begins.
func (p *parser) from(n *yaml.Node) string {
	line := p.line(n.Line)
	if at, ok := p.at.seek(line, n.Column); ok {
		return line[at:]
	}
	return ""
}
