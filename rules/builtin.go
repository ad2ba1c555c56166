package rules

import (
	"bytes"
	_ "embed"
)

//go:embed builtin.yaml
var builtin []byte

// Default returns the built-in rules, for where there is no rules file. They
// watch and report, and act on nothing.
func Default() *Set {
	set, err := Parse(bytes.NewReader(builtin))
	if err != nil {
		panic("built-in rules: " + err.Error())
	}
	return set
}

//go:embed schema.json
var schema string

// Schema returns the JSON Schema (draft 2020-12) of the rules file. It knows names and
// forms; what the keys of a rule demand of each other only Parse knows.
func Schema() []byte { return []byte(schema) }
