package rules

import (
	"slices"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/sockdog/sockdog/rules/internal/document"
	"github.com/sockdog/sockdog/rules/internal/message"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// draft is one rule as it stands in the file.
type draft struct {
	Rule
	at             *yaml.Node
	given          document.Given
	broken         bool // something in it is wrong
	match, exclude []*selection
	groupBy        []document.Placed[GroupKey]
	when, until    []document.Placed[Condition]
	then           []act
}

// head is where the rule's name stands, or the rule where it has none.
func (d *draft) head() *yaml.Node {
	if name := d.given["name"]; name != nil {
		return name
	}
	return d.at
}

// The limits of an action that names none; the tighter one where it may take
// sockets in a live state.
var (
	defaultLimit     = Limit{N: 1000, Per: time.Minute}
	defaultLiveLimit = Limit{N: 60, Per: time.Minute}
)

var ruleTable = document.Table[draft]{What: "a rule", Keys: slices.Concat([]document.Key[draft]{
	document.Field("name", ruleName, func(d *draft) *string { return &d.Name }).Required("unique, of a-z, 0-9 and -"),
	document.Field("description", document.Text, func(d *draft) *string { return &d.Description }),
	document.Field("enabled", document.Boolean, func(d *draft) *bool { return &d.Enabled }),
	document.Field("dry_run", document.Boolean, func(d *draft) *bool { return &d.DryRun }),
	document.Field("match", document.AnyOf(mapping(matchTable, ssfilter.AllStates&^(1<<ssfilter.Listening))), func(d *draft) *[]*selection { return &d.match }).Below(matchTable.Names()),
	document.Field("exclude", document.AnyOf(mapping(excludeTable, ssfilter.AllStates)), func(d *draft) *[]*selection { return &d.exclude }).Below(excludeTable.Names()),
}, groupFields, []document.Key[draft]{
	document.Field("then", document.SeveralOf(then), func(d *draft) *[]act { return &d.then }),
	document.Field("labels", labels, func(d *draft) *map[string]string { return &d.Labels }),
})}

// ruleList is the list of the rules, without those that could not be read.
func ruleList(r *document.Reader, n *yaml.Node) []*draft {
	if entries := document.Target(n).Content; document.Target(n).Kind == yaml.SequenceNode && dashed(entries) {
		r.Report(entries[1], "each dash begins a rule of its own: write one before the first key of a rule, and the others below that key")
		return nil
	}
	return slices.DeleteFunc(document.ListOf(rule)(r, n), func(d *draft) bool { return d == nil })
}

func rule(r *document.Reader, n *yaml.Node) *draft {
	before := r.Reports()
	d := &draft{at: n, Rule: Rule{Enabled: true}}
	if d.given = document.ReadMapping(r, n, ruleTable, d); d.given == nil {
		return nil
	}
	checkGroups(r, d)
	checkWhole(r, d)
	checkActions(r, d)
	d.broken = r.Reports() > before
	return d
}

var ruleName = document.Scalar("a name", func(text string) (string, error) {
	if !document.IsName(text) {
		return "", message.Errorf("%q is not a name for a rule: write up to 100 of a-z, 0-9 and -", text)
	}
	return text, nil
})

// checkActions holds the rule to what its actions demand of it, and fills in
// their defaults.
func checkActions(r *document.Reader, d *draft) {
	seen := map[*Kind]bool{}
	for i := range d.then {
		a := &d.then[i]
		if a.Kind == nil {
			continue
		}
		if seen[a.Kind] && a.Kind == Sysctl {
			r.Report(a.at, "sysctl appears twice in this rule: put all settings under one set")
		}
		if seen[a.Kind] && a.Kind.On == OnSocket {
			r.Report(a.at, "%s appears twice in this rule, but acts once on each connection: remove one", a.Kind)
		}
		seen[a.Kind] = true
		if a.takes() {
			checkDestructive(r, d, a)
		}
		if a.Kind.On == OnSocket {
			checkReach(r, d, a)
		}
	}
	checkOnce(r, d)
}

// checkReach refuses states that an action is written for, and in which it changes nothing.
func checkReach(r *document.Reader, d *draft, a *act) {
	for _, s := range d.match {
		if s.given == nil || !s.given.Wrote("state") || s.States == 0 {
			continue
		}
		idle := s.States &^ a.Kind.States
		if a.takes() {
			idle &^= ssfilter.Unconnected // which is another mistake
		} else if idle != s.States {
			idle = 0 // it is harmless, and changes others
		}
		if a.Kind.States != 0 && idle != 0 {
			r.Report(s.given["state"], "%s changes nothing in the state %s: name only others in a rule with %[1]s", a.Kind, idle)
		} else if a.Via() == ViaHolder && s.States&^unheld == 0 {
			r.Report(s.given["state"], "no process holds a socket in the state %s: %s cannot reach it by way of the holder", s.States, a.Kind)
		}
	}
}

// checkDestructive refuses a rule that could take a healthy socket.
func checkDestructive(r *document.Reader, d *draft, a *act) {
	if d.dashed() {
		r.Report(d.given["match"], dashes)
		return
	}
	live := false
	for _, s := range d.match {
		if s.given == nil {
			continue
		}
		progress := s.given.Has("idle_for") || s.given.Has("stalled_for") || s.given.Has("silent_for")
		timed := progress || s.given.Has("in_state_for")
		if !timed {
			r.Report(s.at, "a rule with %s must say here how long: add %s", a.Kind, s.bounds())
		}
		if !s.given.Has("state") {
			r.Report(s.at, "a rule with %s must name the states here, such as state: close-wait", a.Kind)
			continue
		}
		if !s.given.Wrote("state") {
			continue // misspelt, and reported: which states were meant is not known
		}
		if never := s.States & ssfilter.Unconnected; never != 0 {
			r.Report(s.given["state"], "sockets in the state %s are never touched: name only others in a rule with %s", never, a.Kind)
			continue
		}
		healthy := s.States &^ ssfilter.Dead // a rule that names fin-wait-2 names both kinds
		if healthy == 0 {
			continue
		}
		live = true
		if timed && !progress {
			if lasting := healthy &^ passing; lasting != 0 {
				r.Report(s.given["in_state_for"], "a healthy connection may stay in the state %s for days: use %s", lasting, s.bounds())
			} else {
				r.Report(s.given["in_state_for"], "the time in the state %s does not show whether the connection makes progress: use %s", healthy, s.bounds())
			}
		}
		if !s.narrow() {
			r.Report(s.at, "a healthy connection may be in the state %s: a rule with %s must name a port, an address, an owner or a filter here", healthy, a.Kind)
		}
	}
	if !a.given.Has("limit") {
		a.Limit = defaultLimit
		if live {
			a.Limit = defaultLiveLimit
		}
	}
	if a.Kind.takesSockets() {
		dead := len(d.match) > 0 && !slices.ContainsFunc(d.match, func(s *selection) bool {
			return s.given == nil || !s.given.Wrote("state") || s.States == 0 || s.States&^ssfilter.Dead != 0
		})
		brakes(r, a, live, dead)
	}
	if !a.given.Has("order") {
		a.Order = Oldest
	}
}

// checkConfined refuses a rule that could take the sockets of every pod of a node.
func (p *parser) checkConfined(f *file) {
	if f.settings.Namespaces != AllNamespaces {
		return
	}
	for _, d := range f.rules {
		i := slices.IndexFunc(d.then, func(a act) bool { return a.destroys() })
		if i < 0 || d.dashed() {
			continue
		}
		for _, s := range d.match {
			if s.given != nil && !s.confined() {
				p.Report(s.at, "with namespaces: all, a rule with %s must name a pod, a container, a unit, a cgroup, a netns or a user here: the same ports, addresses and programs may be in every pod", d.then[i].Kind)
				d.broken = true
			}
		}
	}
}

// dashed reports whether there is a dash before each key of match.
func (d *draft) dashed() bool {
	var entries []*yaml.Node
	for _, s := range d.match {
		entries = append(entries, s.at)
	}
	return dashed(entries)
}

const dashes = "each dash begins a mapping of its own, any of which may match: remove the dashes before keys that must all hold"

// dashed reports whether entries of a list are mappings of one key each, and no key twice:
// what a dash before each key of a mapping makes of it.
func dashed(entries []*yaml.Node) bool {
	seen := map[string]bool{}
	for _, n := range entries {
		if n.Kind != yaml.MappingNode || len(n.Content) != 2 || seen[n.Content[0].Value] {
			return false
		}
		seen[n.Content[0].Value] = true
	}
	return len(entries) > 1
}

// finish turns a draft without problems into the rule that it says.
func (d *draft) finish(dryRun bool) Rule {
	r := d.Rule
	r.DryRun = r.DryRun || dryRun
	r.GroupBy, r.When, r.Until = document.Unplaced(d.groupBy), document.Unplaced(d.when), document.Unplaced(d.until)
	for _, s := range d.match {
		r.Match = append(r.Match, s.Match)
	}
	for _, s := range d.exclude {
		r.Exclude = append(r.Exclude, s.Match)
	}
	for _, a := range d.then {
		r.Then = append(r.Then, a.Action)
	}
	if r.Then == nil {
		r.Then = []Action{{Kind: Log}}
	}
	r.Sum = r.sum()
	return r
}
