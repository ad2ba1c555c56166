package rules

import (
	"regexp"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/sockdog/sockdog/rules/ssfilter"
)

// draft is one rule as it stands in the file.
type draft struct {
	Rule
	at             *yaml.Node
	given          given
	broken         bool // something in it is wrong
	match, exclude []*selection
	groupBy        []placed[GroupKey]
	when, until    []placed[Condition]
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

var ruleTable = table[draft]{what: "a rule", keys: []key[draft]{
	require(field("name", "unique, of a-z, 0-9 and -", ruleName, func(d *draft) *string { return &d.Name })),
	field("description", "what the rule is for", text, func(d *draft) *string { return &d.Description }),
	field("enabled", "false: the rule is checked and otherwise ignored", boolean, func(d *draft) *bool { return &d.Enabled }),
	field("dry_run", "decide and log, but touch nothing", boolean, func(d *draft) *bool { return &d.DryRun }),
	require(field("match", "the sockets that the rule is about: all keys of a mapping must hold, and any mapping of a list",
		anyOf(mapping(matchTable, ssfilter.AllStates&^(1<<ssfilter.Listening))), func(d *draft) *[]*selection { return &d.match })),
	field("exclude", "sockets that match and are meant all the same to be left alone",
		anyOf(mapping(excludeTable, ssfilter.AllStates)), func(d *draft) *[]*selection { return &d.exclude }),
	groupFields[0], groupFields[1], groupFields[2], groupFields[3], groupFields[4],
	field("then", "what to do, in order; absent: log only", severalOf(then), func(d *draft) *[]act { return &d.then }),
	field("labels", "labels of the rule's alerts", labels, func(d *draft) *map[string]string { return &d.Labels }),
}}

var rule = value[*draft]{
	read: func(p *parser, n *yaml.Node) *draft {
		if target(n).Kind != yaml.MappingNode {
			readMapping(p, n, ruleTable, nil) // reports it
			return nil
		}
		before := p.reports
		d := &draft{at: n, Rule: Rule{Enabled: true}}
		if d.given = readMapping(p, n, ruleTable, d); d.given == nil {
			return nil
		}
		p.checkGroups(d)
		p.checkActions(d)
		d.broken = p.reports > before
		return d
	},
	schema: ruleTable.schema(),
}

// ruleList is the list of the rules.
var ruleList = value[[]*draft]{
	read: func(p *parser, n *yaml.Node) []*draft {
		if entries := target(n).Content; target(n).Kind == yaml.SequenceNode && dashed(entries) {
			p.report(entries[1], "each dash begins a rule of its own: write one before the first key of a rule, and the others below that key")
			return nil
		}
		return wholes(listOf(rule)).read(p, n)
	},
	schema: listOf(rule).schema,
}

// ruleNames are bounded so that a name fits a label and a line.
var ruleNames = regexp.MustCompile(`^[a-z0-9-]{1,100}$`)

var ruleName = scalar("a name", schema{"type": "string", "pattern": ruleNames.String()}, func(text string) (string, error) {
	if !ruleNames.MatchString(text) {
		return "", errorf("%q is not a name for a rule: write up to 100 of a-z, 0-9 and -", text)
	}
	return text, nil
})

// checkActions holds the rule to what its actions demand of it, and fills in
// their defaults.
func (p *parser) checkActions(d *draft) {
	seen := map[*Kind]bool{}
	for i := range d.then {
		a := &d.then[i]
		if a.Kind == nil {
			continue
		}
		if seen[a.Kind] && a.Kind != Alert {
			p.report(a.at, "%s stands twice in this rule, and acts once on each connection: remove one", a.Kind)
		}
		seen[a.Kind] = true
		if a.destroys() {
			p.checkDestructive(d, a)
		}
	}
}

// checkDestructive refuses a rule that could take a healthy socket.
func (p *parser) checkDestructive(d *draft, a *act) {
	if d.dashed() {
		p.report(d.given["match"], dashes)
		return
	}
	live := false
	for _, s := range d.match {
		if s.given == nil {
			continue
		}
		timed := s.given.has("in_state_for") || s.given.has("idle_for") || s.given.has("stalled_for")
		if !timed {
			p.report(s.at, "a rule that does %s must say here how long: add in_state_for, idle_for or stalled_for", a.Kind)
		}
		if !s.given.has("state") {
			p.report(s.at, "a rule that does %s must name the states here, such as state: close-wait", a.Kind)
			continue
		}
		if !s.given.wrote("state") {
			continue // misspelt, and reported: which states were meant is not known
		}
		if never := s.States & unconnected; never != 0 {
			p.report(s.given["state"], "sockets in the state %s are never touched: name only others in a rule that does %s", never, a.Kind)
			continue
		}
		healthy := s.States &^ dead
		if healthy == 0 {
			continue
		}
		live = true
		if timed && !s.given.has("idle_for") && !s.given.has("stalled_for") {
			if lasting := healthy &^ passing; lasting != 0 {
				p.report(s.given["in_state_for"], "a healthy connection may stay in the state %s for days: use idle_for or stalled_for", lasting)
			} else {
				p.report(s.given["in_state_for"], "how long a connection is in the state %s does not say whether it moves on: use idle_for or stalled_for", healthy)
			}
		}
		if !s.narrow() {
			p.report(s.at, "a healthy connection may be in the state %s: a rule that does %s must name a port, an address, an owner or a filter here", healthy, a.Kind)
		}
	}
	if !a.given.has("limit") {
		a.Limit = defaultLimit
		if live {
			a.Limit = defaultLiveLimit
		}
	}
	if !a.given.has("order") {
		a.Order = Oldest
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

// finish turns a draft without problems into the rule that it says.
func (d *draft) finish(dryRun bool) Rule {
	r := d.Rule
	r.DryRun = r.DryRun || dryRun
	r.GroupBy, r.When, r.Until = unplaced(d.groupBy), unplaced(d.when), unplaced(d.until)
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
