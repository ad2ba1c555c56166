package rules

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/sockdog/sockdog/rules/internal/document"
	"github.com/sockdog/sockdog/rules/internal/message"
	"github.com/sockdog/sockdog/rules/internal/templates"
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
	FDUsage      float64           // percent
	ListenDrops  float64           // a minute
	Orphans      float64           // percent
	TCPMemory    float64           // percent
	Since        time.Time         // the conditions have held since
	Lasted       time.Duration     // for so long
	Oldest       time.Duration     // of the sockets that match, in its state
	Holders      string            // who holds them, as far as is known
	Done         string            // what was done about them
	Peak         int               // the highest count since it fires
	Peers        string            // towards whom most of the sockets are, as far as is known
}

// Template is a text/template over an Event that was tried when it was read. It
// says at most 8 KiB, in a time that its length bounds: there is no loop but over
// the keys of a group.
type Template struct{ *templates.Template }

// Render says what the template makes of the event, cut off where it is too long.
func (t *Template) Render(e *Event) (string, error) {
	said, err := t.Execute(e, templates.MaxBytes)
	switch {
	case errors.Is(err, templates.ErrLong):
		return said + "...", nil
	case err != nil:
		return "", fmt.Errorf("the template fails: %w", err)
	}
	return said, nil
}

// groupValues are values of what a rule can group by.
func groupValues() map[string]string {
	return map[string]string{
		string(ByDst): "192.0.2.17", string(ByDport): "5432", string(BySrc): "192.0.2.18", string(BySport): "40000",
		string(ByState): "close-wait", string(ByUser): "1000",
	}
}

// eventTrials are events of the usual kind and of the extremes.
func eventTrials() []templates.Trial {
	firing := Event{
		Status: "firing", Rule: "rule", About: "description", Instance: "host", When: "count > 1", Group: groupValues(),
		Count: 2, Growth: 1, PortUsage: 1, BacklogUsage: 1, FDUsage: 1, ListenDrops: 1, Orphans: 1, TCPMemory: 1, Since: time.Unix(0, 0).UTC(), Lasted: time.Minute, Oldest: time.Minute, Holders: "nginx[1]", Done: "nothing", Peak: 2, Peers: "192.0.2.17:5432",
	}
	least := Event{Status: "firing", Rule: "rule", Instance: "host", Holders: "unknown", Done: "nothing"} // which are never empty
	most := firing
	most.Count, most.Peak, most.Growth, most.PortUsage, most.BacklogUsage = math.MaxUint32, math.MaxUint32, math.MaxUint32, 100, 1000
	most.FDUsage, most.ListenDrops, most.Orphans, most.TCPMemory = 1000, math.MaxUint32, 1000, 1000
	most.Lasted, most.Oldest = longest, longest
	var trials []templates.Trial
	for _, t := range []struct {
		when string
		Event
	}{{"", firing}, {" where all is 0 or empty", least}, {" where numbers are large", most}} {
		over := t.Event
		over.Status = "resolved"
		trials = append(trials, templates.Trial{When: t.when, Data: &t.Event}, templates.Trial{When: t.when, Data: &over})
	}
	return trials
}

// eventLanguage is what the templates of an alert can say whose rule groups by those
// keys; nil: by which is not known.
func eventLanguage(keys []string) *templates.Language {
	trials := eventTrials()
	full := *trials[0].Data.(*Event)
	long := strings.Repeat("x", 100) // a branch may take a part of a text that is long enough
	full.About, full.Holders, full.Done, full.Peers = long, long, long, long
	l := &templates.Language{
		What: "template", Blank: "write what to say, or remove the key for sockdog's own words",
		Trials: trials, Full: &full, Range: full.Group, Over: ".Group",
	}
	if keys != nil {
		full.Group = groupValues()
		maps.DeleteFunc(full.Group, func(key, _ string) bool { return !slices.Contains(keys, key) })
		l.Key = func(key string) string {
			if slices.Contains(keys, key) {
				return ""
			}
			if groupValues()[key] != "" {
				return "the rule does not group by " + key + ": add it to group_by, or leave it out here"
			}
			return message.Unknown("key", key, ".Group", keys).Error()
		}
	}
	return l
}

// templateText is the text of a template, which is tried when what it is for is known.
func templateText(r *document.Reader, n *yaml.Node) *yaml.Node { return r.Scalar(n, "a template") }

// alertTemplate reads a template of an alert of the rule.
func (p *parser) alertTemplate(d *draft, n *yaml.Node) *Template {
	if n == nil {
		return nil
	}
	keys := []string{}
	for _, k := range d.groupBy {
		keys = append(keys, string(k.Value))
	}
	use := strings.Join(keys, " ")
	if slices.Contains(keys, "") || d.given.Has("group_by") && !d.given.Wrote("group_by") {
		use, keys = "any", nil // reported: what was meant is not known
	}
	t := p.once(n, use, func() (*templates.Template, *templates.Mistake) {
		return eventLanguage(keys).Parse(n.Value)
	})
	if t == nil {
		return nil
	}
	return &Template{t}
}

// maxTemplates is how long the templates of a file may be together, in bytes: each is
// tried on several events.
const maxTemplates = 64 << 10

// templateKey is a template, and what it is for.
type templateKey struct{ use, text string }

// readTemplate is what came of reading a template.
type readTemplate struct {
	*templates.Template
	mistake *templates.Mistake
}

// once reads a template of the file, and reports what is wrong with it. One that stands
// there several times for the same use is read once.
func (p *parser) once(n *yaml.Node, use string, read func() (*templates.Template, *templates.Mistake)) *templates.Template {
	key := templateKey{use, n.Value}
	r, known := p.templates[key]
	if !known {
		const least = 64 // to try one takes a while however short it is
		if len(n.Value) <= templates.MaxBytes {
			p.templateText += max(len(n.Value), least)
		}
		if p.templateText > maxTemplates {
			r.mistake = &templates.Mistake{Text: "the templates of this file are longer than 64 KiB together, each counted once: write fewer or shorter ones"}
		} else {
			r.Template, r.mistake = read()
			p.templates[key] = r
		}
	}
	if m := r.mistake; m != nil {
		p.ReportWithin(n, m.Offset, m.Text)
	}
	return r.Template
}
