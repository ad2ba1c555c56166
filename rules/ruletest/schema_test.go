package ruletest_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/internal/schematest"
	"github.com/sockdog/sockdog/rules/ruletest"
)

// object is what a schema says of a mapping.
type object struct {
	Properties           map[string]struct{ Description any }
	AdditionalProperties any
	Defs                 map[string]json.RawMessage `json:"$defs"`
}

func decode(t *testing.T, text []byte) (o object) {
	t.Helper()
	if err := json.Unmarshal(text, &o); err != nil {
		t.Fatal(err)
	}
	return o
}

// The schema has the keys that Parse reads, and no others, and each says what it is.
func TestSchemaHasTheKeys(t *testing.T) {
	root := decode(t, ruletest.Schema())
	for title, name := range map[string]string{"The file": "", "A test": "test", "A socket": "socket", "A change": "change", "An expectation": "expectation"} {
		of, keys := root, ruletest.Keys()[title]
		if name != "" {
			of = decode(t, root.Defs[name])
		} else {
			keys = slices.Concat(keys, rules.Keys())
		}
		slices.Sort(keys)
		if diff := cmp.Diff(keys, slices.Sorted(maps.Keys(of.Properties))); diff != "" || of.AdditionalProperties != false {
			t.Errorf("%s (-Parse +schema):\n%s", title, diff)
		}
		for key, p := range of.Properties {
			if p.Description == nil {
				t.Errorf("%s: %s has no description", title, key)
			}
		}
	}
}

// No definition of the schema hides one of the rules' under the same name.
func TestSchemaKeepsThatOfRules(t *testing.T) {
	own, err := os.ReadFile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := decode(t, own), decode(t, rules.Schema())
	for name := range ours.Defs {
		if _, taken := theirs.Defs[name]; taken {
			t.Errorf("both schemas define %s", name)
		}
	}
}

func TestSchemaTakesWhatParseTakes(t *testing.T) {
	s := schematest.Compile(t, ruletest.Schema())
	paths, err := filepath.Glob("../../examples/*_test.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatal("no files", err)
	}
	for _, path := range append(paths, "../../internal/testrun/testdata/world_test.yaml") {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := schematest.Validate(t, s, text); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestSchemaRefuses(t *testing.T) {
	s := schematest.Compile(t, ruletest.Schema())
	const (
		head = "rules_file: leak.yaml\ntests:\n  - name: a\n    until: 10m\n    sockets: [{name: s, state: close-wait, dport: 80}]\n"
		none = "    expect: []\n"
	)
	if err := schematest.Validate(t, s, []byte(head+none)); err != nil {
		t.Fatal(err)
	}
	parse(t, head+none)
	for name, text := range map[string]string{
		"an unknown key":               "version: 1\nrules_files: leak.yaml\ntests: []",
		"no rules":                     strings.TrimPrefix(head, "rules_file: leak.yaml\n") + none,
		"rules here and elsewhere":     "rules: []\n" + head + none,
		"no tests":                     "rules_file: leak.yaml\ntests: []",
		"a test that expects no word":  head,
		"a socket without a state":     "rules_file: leak.yaml\ntests: [{name: a, until: 1m, sockets: [{dport: 80}], expect: []}]",
		"a port that is none":          "rules_file: leak.yaml\ntests: [{name: a, until: 1m, sockets: [{state: close-wait, dport: 70000}], expect: []}]",
		"a holder that is none":        "rules_file: leak.yaml\ntests: [{name: a, until: 1m, sockets: [{state: close-wait, dport: 80, holder: me}], expect: []}]",
		"a time without a unit":        head + "    expect: [{at: 5, rule: leak}]",
		"a result that is none":        head + "    expect: [{at: 5m, rule: leak, result: good}]",
		"a reason that is none":        head + "    expect: [{at: 5m, rule: leak, socket: s, kept_by: luck}]",
		"a socket that is closed not":  head + "    changes: [{at: 1m, socket: s, closed: false}]\n" + none,
		"drops without their unit":     head + "    changes: [{at: 1m, listen_drops: 600}]\n" + none,
		"an unknown key of rules":      "rules: [{name: leak, math: {}}]\ntests: [{name: a, until: 1m, expect: []}]",
		"a group by nothing that is":   head + "    expect: [{at: 5m, rule: leak, group: {colour: red}}]",
		"a change without its instant": head + "    changes: [{socket: s, closed: true}]\n" + none,
	} {
		t.Run(name, func(t *testing.T) {
			if err := schematest.Validate(t, s, []byte(text)); err == nil {
				t.Error("the schema takes it")
			}
			if _, err := ruletest.Parse(strings.NewReader(text), config); err == nil {
				t.Error("Parse takes it")
			}
		})
	}
}
