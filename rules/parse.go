package rules

import (
	"io"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/sockdog/sockdog/rules/ssfilter"
)

// file is a rules file as it stands.
type file struct {
	given     given
	settings  general
	protect   []*selection
	receivers []*address
	rules     []*draft
}

var fileTable = table[file]{what: "the file", open: true, keys: []key[file]{
	{name: "version", doc: "of the format; may be left out", read: readVersion, schema: schema{"const": 1}},
	field("settings", "what holds for all rules", settings, func(f *file) *general { return &f.settings }),
	field("protect", "sockets that are never acted on; absent: ssh (port 22) both ways, and a list replaces that",
		listOf(protected), func(f *file) *[]*selection { return &f.protect }),
	field("receivers", "where alerts are sent to, by name", receivers, func(f *file) *[]*address { return &f.receivers }),
	require(field("rules", "the rules, in the order of their priority", ruleList, func(f *file) *[]*draft { return &f.rules })),
}}

func readVersion(p *parser, _, n *yaml.Node, _ *file) {
	if n = p.scalar(n, "a number"); n != nil && n.Value != "1" {
		p.report(n, "version %s of the format is not known: this sockdog reads version 1", n.Value)
	}
}

// general are the settings as they stand in the file.
type general struct {
	Settings
	given given
}

var settingsTable = table[general]{what: "settings", keys: []key[general]{
	field("interval", "time between scans for new sockets; absent: by the rules",
		duration, func(g *general) *time.Duration { return &g.Interval }),
	field("cpu_budget", "of one core: scans are spaced so that they cost no more; absent: 1%",
		percent, func(g *general) *float64 { return &g.CPUBudget }),
	field("dry_run", "decide and log everything, touch nothing",
		boolean, func(g *general) *bool { return &g.DryRun }),
	refused[general]("namespaces", "is not supported yet: sockdog watches the network namespace that it runs in"),
	field("limit", "at most so many destructive actions of all rules together; absent: 5000/1m",
		rate, func(g *general) *Limit { return &g.Limit }),
}}

var defaultSettings = general{Settings: Settings{CPUBudget: 0.01, Limit: Limit{N: 5000, Per: time.Minute}}}

var settings = value[general]{
	read: func(p *parser, n *yaml.Node) general {
		g := defaultSettings
		g.given = readMapping(p, n, settingsTable, &g)
		return g
	},
	schema: settingsTable.schema(),
}

// defaultProtect keeps the way in open: ssh, whichever side listens.
func defaultProtect() *selection {
	ssh := ssfilter.PortRange{First: 22, Last: 22}
	s := &selection{
		Match:  Match{States: ssfilter.AllStates},
		filter: ssfilter.Or(ssfilter.Ports(ssfilter.Src, ssh), ssfilter.Ports(ssfilter.Dst, ssh)),
	}
	s.Where, s.terms = s.filter, []ssfilter.Expr{s.filter}
	return s
}

// Parse reads a rules file of at most 1 MiB. An error is either that of r or
// Problems, with everything that is wrong in the file. Rules may name actions of
// the given kinds beside those that every file may.
func Parse(r io.Reader, more ...*Kind) (*Set, error) {
	p, f, err := read(r, more)
	if err != nil {
		return nil, err
	}
	if problems := p.sorted(); len(problems) > 0 {
		return nil, problems
	}
	return f.set(), nil
}

// read returns the file as far as it could be read; its problems are the parser's.
func read(r io.Reader, more []*Kind) (*parser, *file, error) {
	f := &file{settings: defaultSettings}
	p, ok, err := newParser(r)
	if err != nil {
		return nil, nil, err
	}
	p.kinds = kindsWith(more)
	if !ok {
		return p, f, nil
	}
	if root := p.decode(); root != nil {
		p.hide(root)
		p.check(root)
		p.budget += maxAliased
		f.given = readMapping(p, root, fileTable, f)
		if !f.given.has("protect") {
			f.protect = []*selection{defaultProtect()}
		}
		p.checkNames(f.rules)
		p.checkURLCount(f)
		p.checkAlerts(f)
	}
	return p, f, nil
}

// maxURLs is how many URLs the receivers of a file have together. Each costs the daemon
// some kilobytes and a goroutine.
const maxURLs = 200

// checkURLCount reports too many URLs.
func (p *parser) checkURLCount(f *file) {
	urls := 0
	for _, r := range f.receivers {
		urls += len(r.URLs)
	}
	if urls > maxURLs {
		p.report(f.given["receivers"], "the receivers have %d URLs together, and %d are the most: let one of them, such as an Alertmanager, tell the others", urls, maxURLs)
	}
}

// checkNames reports a name that two rules have.
func (p *parser) checkNames(drafts []*draft) {
	first := map[string]*draft{}
	for _, d := range drafts {
		if d.Name == "" {
			continue
		}
		if other := first[d.Name]; other != nil {
			p.report(d.head(), "the name %q is taken by the rule on line %d: every rule needs its own", d.Name, other.head().Line)
			continue
		}
		first[d.Name] = d
	}
}

// set is what a file without problems says.
func (f *file) set() *Set {
	s := &Set{Settings: f.settings.Settings}
	for _, m := range f.protect {
		s.Protect = append(s.Protect, m.Match)
	}
	for _, r := range f.receivers {
		s.Receivers = append(s.Receivers, r.Receiver)
	}
	for _, d := range f.rules {
		s.Rules = append(s.Rules, d.finish(f.settings.DryRun))
	}
	return s
}
