package rules

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/sockdog/sockdog/rules/internal/document"
	"github.com/sockdog/sockdog/rules/internal/message"
)

// AlertOptions are what an alert action says, and to whom.
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

// defaultKeepFiringFor is for a rule that also acts: what it does may cure the group for a while.
const defaultKeepFiringFor = 5 * time.Minute

var alertTable = document.Table[act]{What: "alert", Keys: []document.Key[act]{
	document.Field("to", document.AnyOf(document.Text), func(a *act) *[]string { return &a.alert().To }),
	document.Field("severity", labelValue, func(a *act) *string { return &a.alert().Severity }),
	document.Field("summary", templateText, func(a *act) **yaml.Node { return &a.summary }),
	document.Field("description", templateText, func(a *act) **yaml.Node { return &a.description }),
	document.Field("labels", labels, func(a *act) *map[string]string { return &a.alert().Labels }),
	document.Field("keep_firing_for", duration, func(a *act) *time.Duration { return &a.alert().KeepFiringFor }),
	after,
}}

// alert is the notice that the options of an alert are read into.
func (a *act) alert() *AlertOptions {
	if a.Alert == nil {
		a.Alert = &AlertOptions{}
	}
	return a.Alert
}

var labelValue = document.Scalar("text", func(text string) (string, error) {
	if text == "" || len(text) > 500 {
		return "", message.Errorf("a label's value has 1 to 500 characters")
	}
	return text, nil
})

// labels is a mapping from the names of labels to their values.
func labels(r *document.Reader, n *yaml.Node) map[string]string {
	all := map[string]string{}
	for _, e := range r.Named(n, "labels") {
		switch name := e.Key.Value; {
		case !document.IsIdentifier(name):
			r.Report(e.Key, "%q is not the name of a label: use letters, digits and _, and no digit first", name)
		case name == "alertname" || name == "instance":
			r.Report(e.Key, "sockdog sets the label %s itself", name)
		}
		all[e.Key.Value] = labelValue(r, e.Value)
	}
	return all
}

// checkAlerts checks the alerts of all rules, which may stand before the receivers.
func (p *parser) checkAlerts(f *file) {
	known := make(map[string]bool, len(f.receivers))
	var names []string
	for _, r := range f.receivers {
		known[r.Name] = true
		if document.IsName(r.Name) { // a URL in the place of a name is not repeated
			names = append(names, r.Name)
		}
	}
	for _, d := range f.rules {
		if d.Labels["severity"] != "" {
			p.Report(d.given["labels"], "the severity is an option of each alert: write it there")
		}
		p.checkLabels(d, d.Labels, d.given["labels"])
		acts := slices.ContainsFunc(d.then, func(a act) bool { return a.Kind != nil && a.Kind.On != OnNothing })
		twins := map[string]*twin{}
		for i := range d.then {
			a := &d.then[i]
			if a.Kind != Alert {
				continue
			}
			p.checkAlert(d, a, known, names)
			if acts && !a.given.Has("keep_firing_for") {
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
			p.Report(cmp.Or(a.given["to"], a.at), "%s", message.Unknown("receiver", name, "receivers", names))
		}
	}
	if len(known) == 0 && !a.given.Has("to") {
		p.Report(a.at, "nobody would get this alert: the file has no receivers")
	}
	if notice.Labels["severity"] != "" {
		p.Report(a.given["labels"], "severity is an option of the alert, not a label: move it out of labels")
	}
	p.checkLabels(d, notice.Labels, a.given["labels"])
	notice.Summary, notice.Description = p.alertTemplate(d, a.summary), p.alertTemplate(d, a.description)
	if a.After > 0 && !d.given.Has("when") {
		p.Report(a.given["after"], "after counts from when a group fires: it needs when")
	}
	if !a.given.Has("severity") {
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
		p.Report(a.at, "a receiver cannot tell this alert from the one on line %d, which has the same labels: give it another severity or label", other.at.Line)
	}
}

// checkLabels refuses a label that the group has by itself.
func (p *parser) checkLabels(d *draft, labels map[string]string, at *yaml.Node) {
	for _, k := range d.groupBy {
		if labels[string(k.Value)] != "" {
			p.Report(at, "group_by sets the label %s itself: choose another name", k.Value)
		}
	}
}
