package rules

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"text/template"
	"time"

	"gopkg.in/yaml.v3"
)

// Notification is what the body of a webhook can say, such as {{.Title}}: how the
// alerts of one rule stand.
type Notification struct {
	Status   string // "firing" while any of the alerts fires, else "resolved"
	Receiver string // its name
	Rule     string // the rule's name
	Instance string // this host's name
	Firing   int    // alerts that fire
	Resolved int    // alerts that have ended since the last message
	LeftOut  int    // alerts that the message has no room for
	Page     string // the address of sockdog's page; empty: it has none
	Title    string // a line with all of this in sockdog's own words
	Text     string // the same with what each alert says, in lines
	Alerts   []NotifiedAlert
}

// NotifiedAlert is one of the alerts of a Notification.
type NotifiedAlert struct {
	Status      string // "firing" or "resolved"
	Severity    string
	Summary     string
	Description string
	Labels      map[string]string
	Annotations map[string]string
	StartsAt    time.Time
	EndsAt      time.Time // 0001-01-01 while it fires
}

// Body is a text/template over a Notification that makes JSON. It was tried when it
// was read. What stands within quotes is escaped there, and what stands elsewhere is
// written as JSON.
type Body struct {
	text     string
	template *template.Template
}

// String is the body as the file has it.
func (b *Body) String() string { return b.text }

// MaxBody bounds what a body says, in bytes.
const MaxBody = 256 << 10

// ErrLongBody is that of a body that says more than MaxBody.
var ErrLongBody = errors.New("the body says more than 256 KiB")

// Render is what the body makes of the notification.
func (b *Body) Render(n *Notification) ([]byte, error) {
	said := bounded{left: MaxBody}
	err := b.template.Execute(&said, n)
	if said.left == 0 {
		return nil, ErrLongBody
	}
	if err != nil {
		_, msg := explainTemplate(b.text, err)
		return nil, fmt.Errorf("the body fails: %s", msg)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, []byte(said.String())); err != nil {
		return nil, fmt.Errorf("the body is no JSON: %w", err)
	}
	return compact.Bytes(), nil
}

// rawJSON is a value that is written as JSON already.
type rawJSON string

// bodyFuncs are those of a template, and json. The others write the values of actions:
// the first outside quotes, the second within.
var bodyFuncs = func() template.FuncMap {
	funcs := maps.Clone(templateFuncs)
	funcs["json"] = toJSON
	funcs[writeValue] = toJSON
	funcs[writeText] = toText
	return funcs
}()

const (
	writeValue = "_value"
	writeText  = "_text"
)

func toJSON(v any) (rawJSON, error) {
	if raw, ok := v.(rawJSON); ok {
		return raw, nil
	}
	text, err := json.Marshal(v)
	return rawJSON(text), err
}

func toText(v any) (string, error) {
	var text string
	switch v := v.(type) {
	case rawJSON:
		text = string(v)
	case time.Time:
		text = v.Format(time.RFC3339)
	case string, bool, int, float64:
		text = fmt.Sprint(v)
	default:
		return "", errors.New("a text holds no mapping and no list: write json before it, or leave the quotes out")
	}
	quoted, err := json.Marshal(text)
	if err != nil {
		return "", err
	}
	return string(quoted[1 : len(quoted)-1]), nil
}

// bodyWords is the vocabulary of a body.
var bodyWords = &vocabulary{"a body", notificationType, ".Alerts", bodyFuncs}

var bodyTemplate = value[*Body]{
	read: func(p *parser, n *yaml.Node) *Body {
		if n = p.scalar(n, "a template"); n == nil {
			return nil
		}
		b, slips := once(p, p.bodies, n.Value, p.readBody)
		for _, s := range slips {
			if !p.shows(n) {
				p.report(n, "a body fails")
				continue
			}
			line, column := p.within(n, s.offset)
			p.reportAt(line, column, "%s", phrase(s.text))
		}
		return b
	},
	schema: schema{"type": "string", "minLength": 1, "maxLength": maxMessage, "examples": []string{
		`{"text": {{json .Text}}}`,
	}},
}

// readBody returns what is wrong with a body, or else the body.
func (p *parser) readBody(text string) (*Body, []slip) {
	switch {
	case strings.TrimSpace(text) == "":
		return nil, []slip{{0, "this says nothing: write the JSON that the receiver takes, or remove the key"}}
	case len(text) > maxMessage:
		return nil, []slip{{0, "a body is at most 8 KiB long"}}
	}
	if at := strings.IndexFunc(text, func(r rune) bool { return r < ' ' && !strings.ContainsRune("\n\r\t", r) }); at >= 0 {
		return nil, []slip{{at, "JSON holds no control characters: write \\u and its number"}}
	}
	t, err := template.New("").Option("missingkey=zero").Funcs(bodyFuncs).Parse(text)
	if err != nil {
		offset, msg := explainTemplate(text, err)
		return nil, []slip{{offset, "this is no template: " + msg}}
	}
	if c := checkTemplate(t, bodyWords); len(c.slips) > 0 {
		return nil, c.slips
	}
	e := escaper{tree: t.Tree}
	if e.list(t.Root); e.quoted() && len(e.slips) == 0 {
		e.slip(e.opened, "this quote is not closed")
	}
	if len(e.slips) > 0 {
		return nil, e.slips[:1] // what follows may follow from it
	}
	if s := p.tryBody(text, t); s != nil {
		return nil, []slip{*s}
	}
	return &Body{text, t}, nil
}

// bodyTrial is a notification to try a body with.
type bodyTrial struct {
	when string // in words
	Notification
}

// bodyTrials are notifications of the usual kinds and of the extremes.
func bodyTrials() []bodyTrial {
	const hostile = "\"quoted\", \\ and \n<&>\u2028\x00\xff"
	at := time.Unix(1_000_000, 0).UTC()
	labels := map[string]string{"alertname": "rule", "instance": "host", "severity": "warning", "dst": "192.0.2.17", "dport": "5432"}
	said := map[string]string{"summary": "summary", "description": "description", "count": "2", "holders": hostile}
	fires := NotifiedAlert{"firing", "warning", "summary", "description\nin lines", labels, said, at, time.Time{}}
	over := NotifiedAlert{"resolved", "warning", hostile, hostile, labels, said, at, at.Add(time.Hour)}
	one := Notification{
		Status: "firing", Receiver: "chat", Rule: "rule", Instance: "host", Firing: 1, Page: "http://host:9797/",
		Title: "[FIRING:1] rule on host", Text: "[FIRING:1] rule on host\nwarning: summary", Alerts: []NotifiedAlert{fires},
	}
	ended := one
	ended.Status, ended.Firing, ended.Resolved, ended.Title, ended.Text, ended.Alerts = "resolved", 0, 1, hostile, hostile, []NotifiedAlert{over}
	several := one
	several.Firing, several.Resolved, several.LeftOut, several.Alerts = 2, 1, 3, []NotifiedAlert{fires, fires, over}
	least := Notification{
		Status: "firing", Receiver: "chat", Rule: "rule", Instance: "host", Firing: 1, Title: one.Title, Text: one.Text,
		Alerts: []NotifiedAlert{{Status: "firing", Severity: "warning"}},
	}
	return []bodyTrial{
		{"", one}, {" where an alert has ended, or says odd things", ended}, {" where there are several alerts", several},
		{" where nothing more is known", least},
	}
}
