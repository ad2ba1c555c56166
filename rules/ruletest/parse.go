package ruletest

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/internal/document"
	"github.com/sockdog/sockdog/rules/internal/message"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Config is what reading a file of tests needs.
type Config struct {
	Kinds []*rules.Kind // that rules may name beside those that every file may
	// Load loads the file that rules_file names. Its error is reported where that stands.
	Load func(name string) (*rules.Set, error)
	// KeptBy are the words for why a rule does nothing to a socket.
	KeptBy []string
}

// draft is a file as it stands.
type draft struct {
	given     document.Given
	rulesFile document.Placed[string]
	tests     *yaml.Node
	cases     []Case
}

// parser is what reading one file takes.
type parser struct {
	*document.Reader
	Config
	set *rules.Set // nil: nothing is known of the rules
}

func parserOf(r *document.Reader) *parser { return r.Owner.(*parser) }

const (
	rulesFileKey = "rules_file"
	testsKey     = "tests"
)

var fileTable = document.Table[draft]{
	What: "the file", Root: true, Cure: "write the tests below a line \"tests:\"",
	Keys: slices.Concat([]document.Key[draft]{
		document.Field(rulesFileKey, document.WithPlace(document.Text), func(d *draft) *document.Placed[string] { return &d.rulesFile }),
		document.Func(testsKey, func(_ *document.Reader, _, n *yaml.Node, d *draft) { d.tests = n }).Required("a list, with a name each"),
	}, rulesKeys()),
	Synonyms: map[string][]string{"rule_files": {rulesFileKey}, "rules_files": {rulesFileKey}, "cases": {testsKey}},
}

// rulesKeys are those of a rules file, which are read as such.
func rulesKeys() (keys []document.Key[draft]) {
	for _, name := range rules.Keys() {
		keys = append(keys, document.Ignored[draft](name))
	}
	return keys
}

// Parse reads a file of tests of at most 1 MiB. An error is that of r, or
// rules.Problems with everything that is wrong in the file.
func Parse(r io.Reader, c Config) (*File, error) {
	text, err := io.ReadAll(io.LimitReader(r, document.MaxBytes+1))
	if err != nil {
		return nil, err
	}
	reader, root, err := document.Read(bytes.NewReader(text), document.Format{
		Open: slices.Concat([]string{rulesFileKey, testsKey}, slices.DeleteFunc(rules.Keys(), func(name string) bool { return name == "receivers" })), Named: "receivers",
		Words: slices.Concat(caseTable.Names(), socketTable.Names(), changeTable.Names(), expectTable.Names()),
	})
	if err != nil {
		return nil, err
	}
	p := &parser{Reader: reader, Config: c}
	reader.Owner = p
	d := &draft{}
	if key := onlyRules(root); key != nil {
		p.Report(key, "this is a file of rules: sockdog check checks it, and a file of tests names it in rules_file")
		return nil, p.Problems()
	}
	if root != nil {
		d.given = document.ReadMapping(reader, root, fileTable, d)
	}
	beside, err := p.findRules(d, root, text)
	if err != nil {
		return nil, err
	}
	if d.tests != nil {
		d.cases = document.ListOf(testCase)(reader, d.tests)
		p.checkCases(d)
	}
	if all := merge(beside, p.Problems()); len(all) > 0 {
		return nil, all
	}
	return &File{RulesFile: d.rulesFile.Value, Rules: p.set, Cases: d.cases}, nil
}

// onlyRules is the key "rules" of a file that is one of rules, or nil.
func onlyRules(root *yaml.Node) *yaml.Node {
	if root == nil || root.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i < len(root.Content); i += 2 {
		if name := root.Content[i].Value; !slices.Contains(rules.Keys(), name) && !strings.HasPrefix(name, "x-") {
			return nil
		}
	}
	return document.KeyNode(root, "rules")
}

// findRules reads the rules, which stand in the file or in another, and returns what is
// wrong with the former.
func (p *parser) findRules(d *draft, root *yaml.Node, text []byte) (problems rules.Problems, err error) {
	inline := slices.IndexFunc(rules.Keys(), d.given.Has)
	switch {
	case d.given == nil:
	case d.given.Has(rulesFileKey) && inline >= 0:
		key := rules.Keys()[inline]
		p.Report(d.given[key], "%s stands in the file that rules_file names: remove one of the two", message.Phrase(key))
	case d.rulesFile.Value != "":
		if p.set, err = p.Load(d.rulesFile.Value); err != nil {
			p.Report(d.rulesFile.At, "%v", err)
			return nil, nil
		}
	case d.given.Has(rulesFileKey):
	case inline < 0:
		p.Report(root, "the file needs rules: name their file in rules_file, or write them below a line \"rules:\"")
	default:
		set, failed := rules.ParseBeside(bytes.NewReader(text), []string{rulesFileKey, testsKey}, p.Kinds...)
		if wrong, ok := errors.AsType[rules.Problems](failed); ok {
			return wrong, nil
		}
		p.set, err = set, failed
	}
	return nil, err
}

// merge returns all problems in the order of the file, those once that both have.
func merge(a, b rules.Problems) rules.Problems {
	all := slices.Concat(a, b)
	slices.SortStableFunc(all, func(a, b rules.Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Msg, b.Msg))
	})
	return slices.CompactFunc(all, func(a, b rules.Problem) bool { return a.Line == b.Line && a.Column == b.Column && a.Msg == b.Msg })
}

// Keys are the keys of a file of tests, by what they stand in: "The file", "A test", "A
// socket", "A change" and "An expectation".
func Keys() map[string][]string {
	return map[string][]string{
		"The file": {rulesFileKey, testsKey}, "A test": caseTable.Names(), "A socket": socketTable.Names(), "A change": changeTable.Names(), "An expectation": expectTable.Names(),
	}
}

// checkCases reports a name that two tests have.
func (p *parser) checkCases(d *draft) {
	if len(d.cases) == 0 {
		p.Report(d.tests, "the list is empty: write a test")
	}
	first := map[string]int{}
	for i := range d.cases {
		c := &d.cases[i]
		if line, taken := first[c.Name]; taken && c.Name != "" {
			p.Report(document.Target(d.tests).Content[i], "the name %q is taken by the test on line %d: every test needs its own", c.Name, line)
		}
		first[c.Name] = c.Line
	}
}

// caseDraft is a test as it stands.
type caseDraft struct {
	Case
	given   document.Given
	names   map[string]int // of sockets, by their names
	sockets []*socketDraft
	expect  *yaml.Node
	changes *yaml.Node
}

var caseTable = document.Table[caseDraft]{What: "a test", Keys: []document.Key[caseDraft]{
	document.Field("name", document.Text, func(c *caseDraft) *string { return &c.Name }).Required("what it is to show"),
	document.Field("ip_local_port_range", localPorts, func(c *caseDraft) *ssfilter.PortRange { return &c.Ports }),
	document.Field("sockets", document.ListOf(socket), func(c *caseDraft) *[]*socketDraft { return &c.sockets }),
	document.Func("changes", func(_ *document.Reader, _, n *yaml.Node, c *caseDraft) { c.changes = n }),
	document.Field("until", at, func(c *caseDraft) *time.Duration { return &c.Until }),
	document.Func("expect", func(_ *document.Reader, _, n *yaml.Node, c *caseDraft) { c.expect = n }).Required("what the rules are to do, or [] for nothing"),
}}

// The ephemeral ports that Linux comes with.
var defaultPorts = ssfilter.PortRange{First: 32768, Last: 60999}

// maxSockets bounds how many sockets a test has, and maxTime how long it takes, in
// simulated time.
const (
	maxSockets = 100_000
	maxTime    = 31 * 24 * time.Hour
)

func testCase(r *document.Reader, n *yaml.Node) Case {
	c := &caseDraft{names: map[string]int{}}
	c.Line, c.Ports = n.Line, defaultPorts
	if c.given = document.ReadMapping(r, n, caseTable, c); c.given == nil {
		return c.Case
	}
	total := 0
	for i, s := range c.sockets {
		if total += s.Count; total > maxSockets {
			r.Report(s.at, "a test may have %d sockets", maxSockets)
			break
		}
		if s.Name == "" {
			continue
		}
		if other, taken := c.names[s.Name]; taken {
			r.Report(s.given["name"], "the name %q is taken by the socket on line %d: use count for several of the same", s.Name, c.sockets[other].at.Line)
			continue
		}
		c.names[s.Name] = i
	}
	checkOwners(r, c.sockets)
	c.checkPorts(r)
	for _, s := range c.sockets {
		c.Sockets = append(c.Sockets, s.Socket)
	}
	if c.changes != nil {
		c.readChanges(r)
	}
	if c.expect != nil {
		c.readExpect(r)
	}
	if c.Until > maxTime {
		r.Report(c.given["until"], "a test may take 31d of simulated time")
	}
	return c.Case
}

// at is an instant, counted from the beginning of a test.
func at(r *document.Reader, n *yaml.Node) time.Duration {
	if s := document.Target(n); s.Kind == yaml.ScalarNode && (s.Value == "0" || s.Value == "0s") {
		return 0
	}
	return duration(r, n)
}

var duration = document.Scalar("a duration", rules.ParseDuration)

// number is a decimal number in a range.
func number[N uint16 | uint32 | int](least, most uint64) document.Value[N] {
	return document.Scalar("a number", func(text string) (N, error) {
		n, err := document.Number(text, least, most)
		return N(n), err
	})
}

// pointer is a value of which it matters whether it is there.
func pointer[V any](v document.Value[V]) document.Value[*V] {
	return func(r *document.Reader, n *yaml.Node) *V {
		value := v(r, n)
		return &value
	}
}

var localPorts = document.Scalar("a range of ports", func(text string) (ssfilter.PortRange, error) {
	first, last, ok := strings.Cut(text, "-")
	if !ok {
		return ssfilter.PortRange{}, message.Errorf("%q is not a range of ports: write the first and the last, such as 32768-60999", text)
	}
	from, err := document.Number(first, 1, 65535)
	if err != nil {
		return ssfilter.PortRange{}, err
	}
	to, err := document.Number(last, from, 65535)
	return ssfilter.PortRange{First: uint16(from), Last: uint16(to)}, err
})
