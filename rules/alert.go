package rules

import (
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"text/template"
	"time"

	"gopkg.in/yaml.v3"
)

// Notice is what an alert action says, and to whom.
type Notice struct {
	To       []string // names of receivers; empty: all of them
	Severity string
	Labels   map[string]string

	Summary     *Template // nil: sockdog's own words
	Description *Template

	// KeepFiringFor is how long the alert goes on after its group has ended, so
	// that a leak which is cured again and again does not flap.
	KeepFiringFor time.Duration
}

// defaultKeepFiringFor is for a rule that also acts.
const defaultKeepFiringFor = 5 * time.Minute

// Event is what the templates of an alert can say, such as {{.Count}}. Where a
// rule does not measure something, it is zero.
type Event struct {
	Status       string            // "firing" or "resolved"
	Rule         string            // its name
	About        string            // its description
	Instance     string            // this host's name
	Group        map[string]string // by what the rule groups, such as {{.Group.dst}}
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

// sample fills every field, to try a template with.
var sample = Event{
	Status: "firing", Rule: "rule", About: "description", Instance: "host", When: "count > 1",
	Group: map[string]string{
		string(ByDst): "192.0.2.17", string(ByDport): "5432", string(BySrc): "192.0.2.18", string(BySport): "40000",
		string(ByState): "close-wait", string(ByUser): "1000",
	},
	Count: 2, Growth: 1, PortUsage: 1, BacklogUsage: 1, Since: time.Unix(0, 0), Lasted: time.Minute, Oldest: time.Minute, Holders: "nginx[1]", Done: "nothing", Peak: 2, Peers: "192.0.2.17:5432",
}

// Template is a text/template over an Event that was tried when it was read.
type Template struct {
	text string
	*template.Template
}

// String is the template as the rule has it.
func (t *Template) String() string { return t.text }

// MarshalText is how a rule's fingerprint knows the template.
func (t *Template) MarshalText() ([]byte, error) { return []byte(t.text), nil }

// maxRendered bounds what a template may say.
const maxRendered = 8 << 10

// Render says what the template makes of the event, cut off where it is too long.
func (t *Template) Render(e *Event) (string, error) {
	b := bounded{left: maxRendered}
	err := t.Execute(&b, e)
	if b.left == 0 {
		return b.String() + "...", nil
	}
	if err != nil {
		return "", fmt.Errorf("the template fails: %s", templateError.ReplaceAllString(err.Error(), ""))
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
		return n, io.ErrShortWrite // ends the execution, whatever it loops over
	}
	return n, nil
}

var templateError = regexp.MustCompile(`^template: :\d+(:\d+)?: ?(executing "" at )?`)

var messageTemplate = scalar("a template", schema{"type": "string", "minLength": 1, "examples": []string{
	"{{.Count}} sockets towards {{.Group.dst}}, the oldest for {{.Oldest}}",
}}, func(text string) (*Template, error) {
	// What no rule can group by is a slip of the pen; what this one does not is empty.
	parsed, err := template.New("").Option("missingkey=error").Parse(text)
	if err == nil {
		err = parsed.Execute(io.Discard, &sample)
	}
	if err != nil {
		return nil, fmt.Errorf("the template fails: %s", templateError.ReplaceAllString(err.Error(), ""))
	}
	return &Template{text, parsed.Option("missingkey=zero")}, nil
})

var alertTable = table[act]{what: "alert", keys: []key[act]{
	field("to", "receivers by name; absent: all of them", anyOf(text), func(a *act) *[]string { return &a.alert().To }),
	field("severity", "the label severity; absent: warning", labelValue, func(a *act) *string { return &a.alert().Severity }),
	field("summary", "a template of one line; absent: sockdog's own words", messageTemplate, func(a *act) **Template { return &a.alert().Summary }),
	field("description", "a template of more than that", messageTemplate, func(a *act) **Template { return &a.alert().Description }),
	field("labels", "more labels of the alert; never a measured value", labels, func(a *act) *map[string]string { return &a.alert().Labels }),
	field("keep_firing_for", "how long the alert goes on after its group has ended; absent: 5m where the rule also acts, else not at all",
		duration, func(a *act) *time.Duration { return &a.alert().KeepFiringFor }),
	field("after", "alert that long after the group fired, if it still does",
		duration, func(a *act) *time.Duration { return &a.After }),
}}

// alert is the notice that the options of an alert are read into.
func (a *act) alert() *Notice {
	if a.Notice == nil {
		a.Notice = &Notice{}
	}
	return a.Notice
}

var (
	labelNames   = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)
	takenLabels  = []string{"alertname", "instance"}
	labelValue   = scalar("text", schema{"type": []string{"string", "number", "boolean"}}, checkLabelValue)
	labelsSchema = schema{"type": "object", "propertyNames": schema{"pattern": labelNames.String()},
		"additionalProperties": schema{"type": []string{"string", "number", "boolean"}}}
)

func checkLabelValue(text string) (string, error) {
	if text == "" || len(text) > 500 {
		return "", fmt.Errorf("a label's value is 1 to 500 characters long")
	}
	return text, nil
}

// labels is a mapping from the names of labels to their values.
var labels = value[map[string]string]{
	read: func(p *parser, n *yaml.Node) map[string]string {
		all := map[string]string{}
		for _, e := range p.named(n, "labels") {
			name := e.key.Value
			switch {
			case !labelNames.MatchString(name):
				p.report(e.key, "%q is not the name of a label: write letters, digits and _, and no digit first", name)
			case slices.Contains(takenLabels, name):
				p.report(e.key, "sockdog sets the label %s itself", name)
			}
			all[name] = labelValue.read(p, e.value)
		}
		return all
	},
	schema: labelsSchema,
}

// checkAlerts checks the alerts of all rules, which may stand before the receivers.
func (p *parser) checkAlerts(f *file) {
	var receivers []string
	for _, r := range f.receivers {
		receivers = append(receivers, r.Name)
	}
	for _, d := range f.rules {
		if d.Labels["severity"] != "" {
			p.report(d.given["labels"], "the severity is an option of each alert: write it there")
		}
		p.checkLabels(d, d.Labels, d.given["labels"])
		for i := range d.then {
			if a := &d.then[i]; a.Kind == Alert {
				p.checkAlert(d, a, receivers)
				p.checkTwin(d, i)
			}
		}
	}
}

// checkAlert holds an alert to the receivers that there are, and to labels that
// no two sources set, and fills in its defaults.
func (p *parser) checkAlert(d *draft, a *act, receivers []string) {
	notice := a.alert()
	for _, name := range notice.To {
		if !slices.Contains(receivers, name) {
			p.report(a.given.at("to", a.at), "%s", unknown("receiver", name, "receivers", receivers))
		}
	}
	if len(receivers) == 0 && !a.given.has("to") {
		p.report(a.at, "there is nobody to alert: the file has no receivers")
	}
	if notice.Labels["severity"] != "" {
		p.report(a.given["labels"], "severity is an option beside labels, not one of them")
	}
	p.checkLabels(d, notice.Labels, a.given["labels"])
	if a.After > 0 && !d.given.has("when") {
		p.report(a.given["after"], "after counts from when a group fires: it needs when")
	}
	if !a.given.has("severity") {
		notice.Severity = "warning"
	}
	if acts := slices.ContainsFunc(d.then, func(a act) bool { return a.Kind.Destructive() }); acts && !a.given.has("keep_firing_for") {
		notice.KeepFiringFor = defaultKeepFiringFor
	}
}

// checkTwin refuses an alert that a receiver could not tell from an earlier one of
// the rule: by their labels they are one alert, with two texts and two ends.
func (p *parser) checkTwin(d *draft, i int) {
	a := &d.then[i]
	if a.Notice.Severity == "" {
		return // it was written, and reported
	}
	all := func(n *Notice) map[string]string { // an alert may repeat a label of its rule
		labels := map[string]string{}
		maps.Copy(labels, d.Labels)
		maps.Copy(labels, n.Labels)
		return labels
	}
	for _, b := range d.then[:i] {
		if b.Kind != Alert || a.Notice.Severity != b.Notice.Severity || !maps.Equal(all(a.Notice), all(b.Notice)) {
			continue
		}
		shared := func(name string) bool { return slices.Contains(b.Notice.To, name) }
		if len(a.Notice.To) == 0 || len(b.Notice.To) == 0 || slices.ContainsFunc(a.Notice.To, shared) {
			p.report(a.at, "this alert has the labels of the one on line %d, and both go to one receiver, which could not tell them apart: give it another severity or a label of its own", b.at.Line)
			return
		}
	}
}

// checkLabels refuses a label that the group has by itself.
func (p *parser) checkLabels(d *draft, labels map[string]string, at *yaml.Node) {
	for _, k := range d.groupBy {
		if labels[string(k.value)] != "" {
			p.report(at, "the label %s is the group's own, by group_by: choose another name", k.value)
		}
	}
}

// at is where the key stands, or n where it does not.
func (g given) at(name string, n *yaml.Node) *yaml.Node {
	if g.has(name) {
		return g[name]
	}
	return n
}
