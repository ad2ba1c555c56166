package rules

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"time"

	"gopkg.in/yaml.v3"
)

// Notice is what an alert action says, and to whom.
type AlertOptions struct {
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

var alertTable = table[act]{what: "alert", keys: []key[act]{
	field("to", "receivers by name; absent: all of them", anyOf(text), func(a *act) *[]string { return &a.alert().To }),
	field("severity", "the label severity; absent: warning", labelValue, func(a *act) *string { return &a.alert().Severity }),
	field("summary", "a template of one line; absent: sockdog's own words", templateText, func(a *act) **yaml.Node { return &a.summary }),
	field("description", "a template of more than that", templateText, func(a *act) **yaml.Node { return &a.description }),
	field("labels", "more labels of the alert; never a measured value", labels, func(a *act) *map[string]string { return &a.alert().Labels }),
	field("keep_firing_for", "how long the alert goes on after its group has ended; absent: 5m where the rule also acts, else not at all",
		duration, func(a *act) *time.Duration { return &a.alert().KeepFiringFor }),
	field("after", "alert that long after the group fired, if it still does",
		duration, func(a *act) *time.Duration { return &a.After }),
}}

// alert is the notice that the options of an alert are read into.
func (a *act) alert() *AlertOptions {
	if a.Alert == nil {
		a.Alert = &AlertOptions{}
	}
	return a.Alert
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
		return "", errorf("a label's value is 1 to 500 characters long")
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
	known := make(map[string]bool, len(f.receivers))
	var names []string
	for _, r := range f.receivers {
		known[r.Name] = true
		if ruleNames.MatchString(r.Name) { // a URL in the place of a name is not repeated
			names = append(names, r.Name)
		}
	}
	for _, d := range f.rules {
		if d.Labels["severity"] != "" {
			p.report(d.given["labels"], "the severity is an option of each alert: write it there")
		}
		p.checkLabels(d, d.Labels, d.given["labels"])
		destroys := slices.ContainsFunc(d.then, func(a act) bool { return a.destroys() })
		twins := map[string]*twin{}
		for i := range d.then {
			a := &d.then[i]
			if a.Kind != Alert {
				continue
			}
			p.checkAlert(d, a, known, names)
			if destroys && !a.given.has("keep_firing_for") {
				a.Alert.KeepFiringFor = defaultKeepFiringFor
			}
			p.checkTwin(d, a, twins)
		}
	}
}

// checkAlert holds an alert to the receivers that there are, by all their names and by
// those to suggest, and to labels that no two sources set, and fills in its defaults.
func (p *parser) checkAlert(d *draft, a *act, known map[string]bool, names []string) {
	notice := a.alert()
	for _, name := range notice.To {
		if !known[name] {
			p.report(a.given.at("to", a.at), "%s", unknown("receiver", name, "receivers", names))
		}
	}
	if len(known) == 0 && !a.given.has("to") {
		p.report(a.at, "there is nobody to alert: the file has no receivers")
	}
	if notice.Labels["severity"] != "" {
		p.report(a.given["labels"], "severity is an option beside labels, not one of them")
	}
	p.checkLabels(d, notice.Labels, a.given["labels"])
	notice.Summary, notice.Description = p.message(d, a.summary), p.message(d, a.description)
	if a.After > 0 && !d.given.has("when") {
		p.report(a.given["after"], "after counts from when a group fires: it needs when")
	}
	if !a.given.has("severity") {
		notice.Severity = "warning"
	}
}

// twin is the alerts of a rule that have the same labels, by where they go.
type twin struct {
	any, all *act            // any one of them, and one that goes to all receivers
	to       map[string]*act // by receiver
}

// checkTwin refuses an alert that a receiver could not tell from an earlier one of
// the rule: by their labels they are one alert, with two texts and two ends.
func (p *parser) checkTwin(d *draft, a *act, twins map[string]*twin) {
	if a.Alert.Severity == "" {
		return // it was written, and reported
	}
	labels := maps.Clone(a.Alert.Labels) // it may repeat a label of its rule
	maps.DeleteFunc(labels, func(name, value string) bool { return d.Labels[name] == value })
	key := fmt.Sprintf("%q %q", a.Alert.Severity, labels) // package fmt prints maps by their keys in order
	t := twins[key]
	if t == nil {
		t = &twin{to: map[string]*act{}}
		twins[key] = t
	}
	other := t.all
	if len(a.Alert.To) == 0 {
		other = cmp.Or(t.any, other)
		t.all = cmp.Or(t.all, a)
	}
	for _, name := range a.Alert.To {
		other = cmp.Or(other, t.to[name])
	}
	for _, name := range a.Alert.To {
		t.to[name] = cmp.Or(t.to[name], a)
	}
	t.any = cmp.Or(t.any, a)
	if other != nil {
		p.report(a.at, "this alert has the labels of the one on line %d, and both go to one receiver, which could not tell them apart: give it another severity or a label of its own", other.at.Line)
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
