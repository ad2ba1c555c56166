package rules

import (
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"

	"gopkg.in/yaml.v3"
)

// Event is what the templates of an alert can say, such as {{.Count}}. Where a
// rule does not measure something, it is zero.
type Event struct {
	Status       string            // "firing" or "resolved"
	Rule         string            // its name
	About        string            // its description
	Instance     string            // this host's name
	Group        map[string]string // by what the rule groups, such as {{.Group.dst}}; empty where an alert is about many groups
	When         string            // the rule's conditions, as it says them
	Count        int               // sockets that match
	Growth       float64           // sockets a minute
	PortUsage    float64           // percent
	BacklogUsage float64           // percent
	Since        time.Time         // the conditions have held since
	Lasted       time.Duration     // for so long
	Oldest       time.Duration     // of the sockets that match, in its state
	Holders      string            // who holds them, as far as is known
	Done         string            // what was done about them
	Peak         int               // the highest count since it fires
	Peers        string            // towards whom most of the sockets are, as far as is known
}

// trial is an event to try a template with.
type trial struct {
	when string // in words
	Event
}

// trials are events of the usual kind and of the extremes.
func trials() []trial {
	firing := Event{
		Status: "firing", Rule: "rule", About: "description", Instance: "host", When: "count > 1",
		Group: map[string]string{
			string(ByDst): "192.0.2.17", string(ByDport): "5432", string(BySrc): "192.0.2.18", string(BySport): "40000",
			string(ByState): "close-wait", string(ByUser): "1000",
		},
		Count: 2, Growth: 1, PortUsage: 1, BacklogUsage: 1, Since: time.Unix(0, 0).UTC(), Lasted: time.Minute, Oldest: time.Minute, Holders: "nginx[1]", Done: "nothing", Peak: 2, Peers: "192.0.2.17:5432",
	}
	least := Event{Status: "firing", Rule: "rule", Instance: "host", Holders: "unknown", Done: "nothing"} // which are never empty
	most := firing
	most.Count, most.Peak, most.Growth, most.PortUsage, most.BacklogUsage = math.MaxUint32, math.MaxUint32, math.MaxUint32, 100, 1000
	most.Lasted, most.Oldest = longest, longest
	both := func(when string, e Event) []trial {
		over := e
		over.Status = "resolved"
		return []trial{{when, e}, {when, over}}
	}
	return slices.Concat(both("", firing), both(" where all is 0 or empty", least), both(" where numbers are large", most))
}

// Template is a text/template over an Event that was tried when it was read. It
// says at most 8 KiB, in a time that its length bounds: there is no loop but over
// the keys of a group.
type Template struct {
	text string
	*template.Template
}

// String is the template as the rule has it.
func (t *Template) String() string { return t.text }

// MarshalText is how a rule's fingerprint knows the template.
func (t *Template) MarshalText() ([]byte, error) { return []byte(t.text), nil }

// maxMessage bounds a template and what it says, in bytes.
const maxMessage = 8 << 10

// Render says what the template makes of the event, cut off where it is too long.
func (t *Template) Render(e *Event) (string, error) {
	b := bounded{left: maxMessage}
	err := t.Execute(&b, e)
	if b.left == 0 {
		return b.String() + "...", nil
	}
	if err != nil {
		_, msg := explainTemplate(t.text, err)
		return "", fmt.Errorf("the template fails: %s", msg)
	}
	return b.String(), nil
}

// bounded is a text that takes no more than so many bytes.
type bounded struct {
	strings.Builder
	left int
}

func (b *bounded) Write(p []byte) (int, error) {
	n := min(len(p), b.left)
	b.left -= n
	b.Builder.Write(p[:n])
	if n < len(p) {
		return n, io.ErrShortWrite // ends the execution
	}
	return n, nil
}

// templateFuncs stand in for those of the language that make text, which put no
// bound to it: $x = print $x $x, forty times over, would be more than the memory.
var templateFuncs = template.FuncMap{
	"print":   func(args ...any) (string, error) { return short(fmt.Sprint(args...)) },
	"println": func(args ...any) (string, error) { return short(fmt.Sprintln(args...)) },
	"printf": func(format string, args ...any) (string, error) {
		// A percent sign that is meant is not where a verb begins.
		if wideVerb.MatchString(strings.ReplaceAll(format, "%%", "")) {
			return "", errors.New("a width or precision is at most 999, and in digits")
		}
		said, err := short(fmt.Sprintf(format, args...))
		// What the arguments themselves say, such as the name of a process, is not complained of.
		if bad := badVerb.FindString(said); err == nil && bad != "" && !strings.Contains(fmt.Sprint(args...), "%!") {
			return "", fmt.Errorf("it says %q: %%d is for whole numbers, %%.0f for others, %%v for everything, and each takes one value", bad)
		}
		return said, err
	},
	"html":     func(args ...any) (string, error) { return short(template.HTMLEscaper(args...)) },
	"js":       func(args ...any) (string, error) { return short(template.JSEscaper(args...)) },
	"urlquery": func(args ...any) (string, error) { return short(template.URLQueryEscaper(args...)) },
}

// badVerb is what package fmt says of a verb and a value that do not go together.
var badVerb = regexp.MustCompile(`%!.?\([^)]*\)`)

var wideVerb = regexp.MustCompile(`%[^%a-zA-Z]*([0-9]{4}|\*)`)

func short(text string) (string, error) {
	if len(text) > maxMessage {
		return "", errors.New("a text is at most 8 KiB long")
	}
	return text, nil
}

// message is a template as it stands in the file.
type message struct {
	*Template
	at   *yaml.Node
	keys []slip // of .Group, that it names
}

// slip is something at a byte of a template.
type slip struct {
	offset int
	text   string
}

var messageTemplate = value[*message]{
	read: func(p *parser, n *yaml.Node) *message {
		if n = p.scalar(n, "a template"); n == nil {
			return nil
		}
		m, slips := once(p, p.templates, n.Value, readTemplate)
		for _, s := range slips {
			if !p.shows(n) {
				p.report(n, "a template fails")
				continue
			}
			line, column := p.within(n, s.offset)
			p.reportAt(line, column, "%s", phrase(s.text))
		}
		if m == nil {
			return nil
		}
		placed := *m // it may stand elsewhere too
		placed.at = n
		return &placed
	},
	schema: schema{"type": "string", "minLength": 1, "maxLength": maxMessage, "examples": []string{
		"{{.Count}} sockets towards {{.Group.dst}}, the oldest for {{.Oldest}}",
	}},
}

// readTemplate returns what is wrong with a template, or else the template.
func readTemplate(text string) (*message, []slip) {
	switch {
	case strings.TrimSpace(text) == "":
		return nil, []slip{{0, "this says nothing: write what to say, or remove the key for sockdog's own words"}}
	case len(text) > maxMessage:
		return nil, []slip{{0, "a template is at most 8 KiB long"}}
	}
	// A key that its rule groups by is empty where an alert is about many groups.
	parsed, err := template.New("").Option("missingkey=zero").Funcs(templateFuncs).Parse(text)
	if err != nil {
		offset, msg := explainTemplate(text, err)
		return nil, []slip{{offset, "this is no template: " + msg}}
	}
	c := checkTemplate(parsed, spoken)
	if len(c.slips) > 0 {
		return nil, c.slips
	}
	t := &Template{text, parsed}
	for _, trial := range trials() {
		b := bounded{left: maxMessage}
		if err := t.Execute(&b, &trial.Event); err != nil && b.left > 0 {
			offset, msg := explainTemplate(text, err)
			return nil, []slip{{offset, "the template fails" + trial.when + ": " + msg}}
		}
	}
	return &message{Template: t, keys: c.keys}, nil
}

var (
	templateError = regexp.MustCompile(`^template: :(\d+)(?::(\d+))?: ?(?:executing "" at )?`)
	startedAt     = regexp.MustCompile(` started at :\d+$`)
	longAction    = regexp.MustCompile(`(?s)^<(.{60}).+>: `)
)

// explainTemplate is what package text/template says, and the byte of the text at
// which it says so: where it knows the line alone, at the beginning of that.
func explainTemplate(text string, err error) (offset int, msg string) {
	msg = err.Error()
	if found := templateError.FindStringSubmatch(msg); found != nil {
		msg = msg[len(found[0]):]
		line, _ := strconv.Atoi(found[1])
		for ; line > 1; line-- {
			offset += strings.IndexByte(text[offset:], '\n') + 1
		}
		if column, err := strconv.Atoi(found[2]); err == nil {
			offset += column
		} else {
			offset += len(indentation(text[offset:]))
		}
	}
	msg = longAction.ReplaceAllString(msg, "<$1...>: ")
	switch msg = startedAt.ReplaceAllString(msg, ""); msg {
	case "unclosed action":
		msg = "{{ is not closed by }}"
	case "unexpected EOF":
		msg = "{{end}} is missing"
	}
	return offset, msg
}

// checkKeys refuses a template's key of .Group by which the rule does not group:
// it would say nothing.
func (p *parser) checkKeys(d *draft, m *message) {
	if m == nil || d.given.has("group_by") && !d.given.wrote("group_by") {
		return
	}
	var keys []string
	for _, k := range d.groupBy {
		if k.value == "" {
			return // reported: what was meant is not known
		}
		keys = append(keys, string(k.value))
	}
	for _, used := range m.keys {
		if slices.Contains(keys, used.text) {
			continue
		}
		if !p.shows(m.at) {
			p.report(m.at, "unknown key of .Group")
			continue
		}
		line, column := p.within(m.at, used.offset)
		if _, other := trials()[0].Group[used.text]; other {
			p.reportAt(line, column, "the rule does not group by %s: add it to group_by, or leave it out here", used.text)
			continue
		}
		p.reportAt(line, column, "%s", unknown("key", used.text, ".Group", keys))
	}
}
