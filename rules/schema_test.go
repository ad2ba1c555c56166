package rules

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"
)

func TestSchemaIsCommitted(t *testing.T) {
	golden(t, "schema.json", Schema())
}

func compileSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("rules.json", doc); err != nil {
		t.Fatal(err)
	}
	compiled, err := compiler.Compile("rules.json")
	if err != nil {
		t.Fatal(err)
	}
	return compiled
}

func validate(t *testing.T, s *jsonschema.Schema, text []byte) error {
	t.Helper()
	var v any
	if err := yaml.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	return s.Validate(v)
}

func TestSchemaTakesWhatParseTakes(t *testing.T) {
	s := compileSchema(t)
	paths := []string{"builtin.yaml"}
	for _, pattern := range []string{"testdata/good/*.yaml", "testdata/lint/*.yaml", "../examples/*.yaml", "../examples/rules/*.yaml"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, found...)
	}
	for _, path := range paths {
		t.Run(path, func(t *testing.T) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			_, parseErr := Parse(bytes.NewReader(text))
			schemaErr := validate(t, s, text)
			if (parseErr == nil) != (schemaErr == nil) {
				t.Errorf("Parse: %v; schema: %v", parseErr, schemaErr)
			}
		})
	}
}

func TestSchemaRefuses(t *testing.T) {
	s := compileSchema(t)
	tests := map[string]string{
		"an unknown key":         "rules: [{name: a, match: {state: close-wait}, colour: red}]",
		"a key that comes later": "rules: [{name: a, match: {state: close-wait, process: nginx}}]",
		"no rules":               "version: 1",
		"no name":                "rules: [{match: {state: close-wait}}]",
		"another version":        "version: 2\nrules: []",
		"a time without a unit":  "rules: [{name: a, match: {in_state_for: 5}}]",
		"a time in exclude":      "rules: [{name: a, match: {state: close-wait}, exclude: {idle_for: 5m}}]",
		"an empty list":          "rules: [{name: a, match: {dport: []}}]",
		"an empty value":         "rules: [{name: a, match: {dport: }}]",
		"two actions in one":     "rules: [{name: a, match: {state: close-wait}, then: {kill: {}, log: {}}}]",
		"an unknown action":      "rules: [{name: a, match: {state: close-wait}, then: [reboot]}]",
		"a word for a boolean":   "rules: [{name: a, enabled: 'yes', match: {state: close-wait}}]",
	}
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			if err := validate(t, s, []byte(text)); err == nil {
				t.Error("the schema takes it")
			}
			if _, err := Parse(bytes.NewReader([]byte(text))); err == nil {
				t.Error("Parse takes it")
			}
		})
	}
}
