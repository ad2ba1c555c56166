package rules

import (
	"io"
	"slices"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/sockdog/sockdog/rules/internal/document"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Problem is one thing that is wrong, or unwise, in a rules file.
type Problem = document.Problem

// Problems are all that was found in one file, in the order of the file. As an error
// they mean that nothing of the file is in force.
type Problems = document.Problems

// file is a rules file as it stands.
type file struct {
	given     document.Given
	settings  general
	protect   []*selection
	receivers []*address
	rules     []*draft
}

var fileTable = document.Table[file]{What: "the file", Root: true, Cure: "write the rules below a line \"rules:\"", Keys: []document.Key[file]{
	document.Func("version", readVersion),
	document.Field("settings", settings, func(f *file) *general { return &f.settings }).Below(settingsTable.Names()),
	document.Field("protect", document.ListOf(protected), func(f *file) *[]*selection { return &f.protect }),
	document.Field("receivers", receivers, func(f *file) *[]*address { return &f.receivers }),
	document.Field("rules", ruleList, func(f *file) *[]*draft { return &f.rules }).Required("the rules, in the order of their priority"),
}}

func readVersion(r *document.Reader, _, n *yaml.Node, _ *file) {
	if n = r.Scalar(n, "a number"); n != nil && n.Value != "1" {
		r.Report(n, "unknown format version %s: this sockdog reads version 1", n.Value)
	}
}

// general are the settings as they stand in the file.
type general struct {
	Settings
	given document.Given
}

var settingsTable = document.Table[general]{What: "settings", Keys: []document.Key[general]{
	document.Field("interval", duration, func(g *general) *time.Duration { return &g.Interval }),
	document.Field("cpu_budget", percent, func(g *general) *float64 { return &g.CPUBudget }),
	document.Field("dry_run", document.Boolean, func(g *general) *bool { return &g.DryRun }),
	document.Field("namespaces", document.OneOf("namespaces", SelfNamespace, AllNamespaces), func(g *general) *Namespaces { return &g.Namespaces }),
	document.Field("limit", rate, func(g *general) *Limit { return &g.Limit }),
}}

var defaultSettings = general{Settings: Settings{CPUBudget: 0.01, Limit: Limit{N: 5000, Per: time.Minute}, Namespaces: SelfNamespace}}

func settings(r *document.Reader, n *yaml.Node) general {
	g := defaultSettings
	g.given = document.ReadMapping(r, n, settingsTable, &g)
	return g
}

// SSHPort is the port that is protected by default.
const SSHPort = 22

var ssh = ssfilter.PortRange{First: SSHPort, Last: SSHPort}

// defaultProtect keeps the way in open, and the host a node: ssh, whichever side listens,
// and what sshd and the agents of a node are seen to hold.
func defaultProtect() []*selection {
	port := &selection{filter: ssfilter.Or(ssfilter.Ports(ssfilter.Src, ssh), ssfilter.Ports(ssfilter.Dst, ssh))}
	agents := &selection{}
	agents.Processes, agents.IfKnown = protectedPrograms, true
	all := []*selection{port, agents}
	for _, s := range all {
		s.States = ssfilter.AllStates
		s.join()
	}
	return all
}

// protectedPrograms are the names of sshd, which has several since OpenSSH 9.8, and of what
// runs the containers of a node.
var protectedPrograms = []string{"sshd", "sshd-session", "sshd-auth", "kubelet", "containerd", "crio", "dockerd"}

// parser is what reading one rules file takes.
type parser struct {
	*document.Reader
	kinds    []*Kind  // of actions
	allowed  []string // the names of those that rules may have; nil: all
	names    []string // of all kinds, and the first kind by each option; nil until an action is unknown
	byOption map[string]*Kind
	users    map[string]lookedUp // by name
	pairs    int                 // were compared by lint

	// The templates that were read, the bytes of all, and how many branches of bodies may
	// still be tried.
	templates    map[templateKey]readTemplate
	templateText int
	bodyTries    int
}

// allows reports whether rules may name a kind of action.
func (p *parser) allows(k *Kind) bool {
	return p.allowed == nil || k == Log || slices.Contains(p.allowed, k.Name)
}

func parserOf(r *document.Reader) *parser { return r.Owner.(*parser) }

// Parse reads a rules file of at most 1 MiB. An error is either that of r or
// Problems, with everything that is wrong in the file. Rules may name actions of
// the given kinds beside those that every file may.
func Parse(r io.Reader, more ...*Kind) (*Set, error) { return parse(r, reading{kinds: more}) }

// ParseAllowed is Parse where rules may name no other actions than these, and log: that is
// for whoever runs sockdog to say, and not for whoever writes the file. Nil: all.
func ParseAllowed(r io.Reader, allowed []string, more ...*Kind) (*Set, error) {
	return parse(r, reading{allowed: allowed, kinds: more})
}

// ParseBeside is Parse for a file that holds something else below these keys at the top
// level.
func ParseBeside(r io.Reader, others []string, more ...*Kind) (*Set, error) {
	return parse(r, reading{beside: others, kinds: more})
}

// reading is how a file is to be read.
type reading struct {
	allowed []string // actions that rules may name, and log; nil: all
	beside  []string // keys at the top level that are for somebody else
	kinds   []*Kind  // that rules may name beside those that every file may
}

func parse(r io.Reader, how reading) (*Set, error) {
	p, f, err := read(r, how)
	if err != nil {
		return nil, err
	}
	if problems := p.Problems(); len(problems) > 0 {
		return nil, problems
	}
	return f.set(), nil
}

// Keys are those at the top level of a rules file.
func Keys() []string { return fileTable.Names() }

// testKeys are those of a file of tests.
var testKeys = []string{"rules_file", "tests"}

// read returns the file as far as it could be read; its problems are the parser's.
func read(r io.Reader, how reading) (*parser, *file, error) {
	table := fileTable
	for _, name := range how.beside {
		table.Keys = append(slices.Clip(table.Keys), document.Ignored[file](name))
	}
	reader, root, err := document.Read(r, document.Format{
		Open:  slices.Concat([]string{"version", "settings", "protect", "rules"}, how.beside),
		Named: "receivers",
		Words: slices.Concat(testKeys, fileTable.Names(), settingsTable.Names(), ruleTable.Names(), matchTable.Names(), choiceTable.Names(), webhookTable.Names(), basicAuthTable.Names(), tlsTable.Names()),
	})
	if err != nil {
		return nil, nil, err
	}
	p := &parser{Reader: reader, allowed: slices.Clip(how.allowed), kinds: slices.Clone(builtInKinds), users: map[string]lookedUp{}, templates: map[templateKey]readTemplate{}, bodyTries: maxBodyTries}
	reader.Owner = p
	for _, k := range how.kinds {
		if !slices.Contains(p.kinds, k) {
			p.kinds = append(p.kinds, k)
		}
	}
	f := &file{settings: defaultSettings}
	if root == nil {
		return p, f, nil
	}
	for _, name := range testKeys {
		if key := document.KeyNode(root, name); key != nil && !slices.Contains(how.beside, name) {
			p.Report(key, "this is a file of tests: sockdog test FILE runs them")
			return p, f, nil
		}
	}
	f.given = document.ReadMapping(reader, root, table, f)
	if !f.given.Has("protect") {
		f.protect = defaultProtect()
	}
	p.checkNames(f.rules)
	p.checkConfined(f)
	p.checkNamespaceOf(f)
	p.checkReceivers(f)
	p.checkAlerts(f)
	return p, f, nil
}

// checkNames reports a name that two rules have.
func (p *parser) checkNames(drafts []*draft) {
	first := map[string]*draft{}
	for _, d := range drafts {
		if d.Name == "" {
			continue
		}
		if other := first[d.Name]; other != nil {
			p.Report(d.head(), "the name %q is taken by the rule on line %d: every rule needs its own", d.Name, other.head().Line)
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
