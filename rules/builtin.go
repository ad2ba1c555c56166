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
