package rules

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/sockdog/sockdog/rules/internal/templates"
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
type Body struct{ *templates.Template }

// MaxBody bounds what a body says, in bytes.
const MaxBody = 256 << 10

// ErrLongBody is that of a body that says more than MaxBody.
var ErrLongBody = errors.New("the body says more than 256 KiB")

// Render is what the body makes of the notification.
func (b *Body) Render(n *Notification) ([]byte, error) {
	said, err := b.Execute(n, MaxBody)
	switch {
	case errors.Is(err, templates.ErrLong):
		return nil, ErrLongBody
	case err != nil:
		return nil, fmt.Errorf("the body fails: %w", err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, []byte(said)); err != nil {
		return nil, fmt.Errorf("the body is not JSON: %w", err)
	}
	return compact.Bytes(), nil
}

// body reads the body of a webhook.
func (p *parser) body(n *yaml.Node) *Body {
	if n == nil {
		return nil
	}
	t := p.once(n, "a body", func() (*templates.Template, *templates.Mistake) {
		return notificationLanguage().ParseJSON(n.Value, &p.bodyTries)
	})
	if t == nil {
		return nil
	}
	return &Body{t}
}

// maxBodyTries bounds what all bodies of a file cost to check. What is left then shows
// when it is said.
const maxBodyTries = 100

// notificationLanguage is what a body can say.
func notificationLanguage() *templates.Language {
	trials := bodyTrials()
	full := trials[2].Data.(*Notification)
	return &templates.Language{
		What: "body", Blank: "write the JSON that the receiver takes, or remove the key",
		Trials: trials, Full: full, Range: full.Alerts, Over: ".Alerts",
	}
}

// bodyTrials are notifications of the usual kinds and of the extremes.
func bodyTrials() []templates.Trial {
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
	return []templates.Trial{
		{Data: &one}, {When: " where an alert has ended, or says odd things", Data: &ended},
		{When: " where there are several alerts", Data: &several}, {When: " where nothing more is known", Data: &least},
	}
}
