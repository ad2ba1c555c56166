package rules

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sockdog/sockdog/rules/internal/schematest"
)

// The schema has the keys that Parse reads, and no others.
func TestSchemaHasTheKeys(t *testing.T) {
	type node struct {
		Properties           map[string]node
		AdditionalProperties any
		Defs                 map[string]node `json:"$defs"`
	}
	var root node
	if err := json.Unmarshal(Schema(), &root); err != nil {
		t.Fatal(err)
	}
	for name, accepted := range map[string][]string{
		"rule": ruleTable.Accepted(), "match": matchTable.Accepted(), "exclude": excludeTable.Accepted(), "kill": Kill.options().Accepted(), "shutdown": Shutdown.options().Accepted(), "keepalive": Keepalive.options().Accepted(),
		"alert": alertTable.Accepted(), "exec": Exec.options().Accepted(), "signal": Signal.options().Accepted(), "sysctl": Sysctl.options().Accepted(), "log": Log.options().Accepted(), "receiver": choiceTable.Accepted(), "alertmanager": alertmanagerTable.Accepted(),
		"webhook": webhookTable.Accepted(), "basic_auth": basicAuthTable.Accepted(), "tls": tlsTable.Accepted(),
		"settings": settingsTable.Accepted(), "file": fileTable.Accepted(),
	} {
		of := root
		if name != "file" {
			of = root.Defs[name]
		}
		slices.Sort(accepted)
		if diff := cmp.Diff(accepted, slices.Sorted(maps.Keys(of.Properties)), cmpopts.EquateEmpty()); diff != "" || of.AdditionalProperties != false {
			t.Errorf("%s (-Parse +schema):\n%s", name, diff)
		}
	}
}

func TestSchemaTakesWhatParseTakes(t *testing.T) {
	s := schematest.Compile(t, Schema())
	paths := []string{"builtin.yaml"}
	for _, pattern := range []string{"testdata/good/*.yaml", "testdata/lint/*.yaml", "../examples/*.yaml", "../examples/kubernetes/*/rules.yaml", "../examples/rules/*.yaml"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		unitTests := func(path string) bool { return strings.HasSuffix(path, "_test.yaml") }
		paths = append(paths, slices.DeleteFunc(found, unitTests)...)
	}
	for _, path := range paths {
		t.Run(path, func(t *testing.T) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			_, parseErr := Parse(bytes.NewReader(text))
			schemaErr := schematest.Validate(t, s, text)
			if (parseErr == nil) != (schemaErr == nil) {
				t.Errorf("Parse: %v; schema: %v", parseErr, schemaErr)
			}
		})
	}
}

func TestSchemaRefuses(t *testing.T) {
	s := schematest.Compile(t, Schema())
	tests := map[string]string{
		"an unknown key":        "rules: [{name: a, match: {state: close-wait}, colour: red}]",
		"a key without effect":  "rules: [{name: a, match: {state: close-wait}, cooldown: soon}]",
		"exec without command":  "rules: [{name: a, match: {state: close-wait}, when: count > 1, then: [exec]}]",
		"an unknown sysctl":     "rules: [{name: a, match: {state: time-wait}, when: count > 1, then: [{sysctl: {set: {fs.file-max: 1}}}]}]",
		"an unknown signal":     "rules: [{name: a, match: {state: close-wait}, when: count > 1, for: 1m, group_by: pid, then: [{signal: STOP}]}]",
		"a command as a text":   "rules: [{name: a, match: {state: close-wait}, when: count > 1, then: [{exec: {command: /bin/true}}]}]",
		"any command line":      "rules: [{name: a, match: {state: close-wait, cmdline: ''}}]",
		"no rules":              "version: 1",
		"no name":               "rules: [{match: {state: close-wait}}]",
		"another version":       "version: 2\nrules: []",
		"a time without a unit": "rules: [{name: a, match: {in_state_for: 5}}]",
		"a time in exclude":     "rules: [{name: a, match: {state: close-wait}, exclude: {idle_for: 5m}}]",
		"an empty list":         "rules: [{name: a, match: {dport: []}}]",
		"an empty value":        "rules: [{name: a, match: {dport: }}]",
		"two actions in one":    "rules: [{name: a, match: {state: close-wait}, then: {kill: {}, log: {}}}]",
		"an unknown action":     "rules: [{name: a, match: {state: close-wait}, then: [reboot]}]",
		"a word for a boolean":  "rules: [{name: a, enabled: 'yes', match: {state: close-wait}}]",
	}
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			if err := schematest.Validate(t, s, []byte(text)); err == nil {
				t.Error("the schema takes it")
			}
			if _, err := Parse(bytes.NewReader([]byte(text))); err == nil {
				t.Error("Parse takes it")
			}
		})
	}
}
