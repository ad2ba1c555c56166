package rules

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
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

var alertTable = table[act]{what: "alert", keys: []key[act]{
	field("to", "receivers by name; absent: all of them", anyOf(text), func(a *act) *[]string { return &a.alert().To }),
	field("severity", "the label severity; absent: warning", labelValue, func(a *act) *string { return &a.alert().Severity }),
	field("summary", "a template of one line; absent: sockdog's own words", messageTemplate, func(a *act) **message { return &a.summary }),
	field("description", "a template of more than that", messageTemplate, func(a *act) **message { return &a.description }),
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
			// A URL in the place of a name is not repeated.
			named := slices.DeleteFunc(slices.Clone(receivers), func(name string) bool { return !ruleNames.MatchString(name) })
			p.report(a.given.at("to", a.at), "%s", unknown("receiver", name, "receivers", named))
		}
	}
	if len(receivers) == 0 && !a.given.has("to") {
		p.report(a.at, "there is nobody to alert: the file has no receivers")
	}
	if notice.Labels["severity"] != "" {
		p.report(a.given["labels"], "severity is an option beside labels, not one of them")
	}
	p.checkLabels(d, notice.Labels, a.given["labels"])
	if p.checkKeys(d, a.summary); a.summary != nil {
		notice.Summary = a.summary.Template
	}
	if p.checkKeys(d, a.description); a.description != nil {
		notice.Description = a.description.Template
	}
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
