package ruletest

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"maps"

	"github.com/sockdog/sockdog/rules"
)

//go:embed schema.json
var ownSchema []byte

// Schema returns the JSON Schema (draft 2020-12) of a file of tests. The rules that may stand
// in it are as in rules.Schema. It knows names and forms; what keys demand of each other, and
// what can happen to a socket, only Parse knows.
func Schema() []byte {
	schema, ofRules := mapping(ownSchema), mapping(rules.Schema())
	for _, part := range []string{"properties", "$defs"} {
		all := mapping(schema[part])
		maps.Copy(all, mapping(ofRules[part]))
		schema[part] = encode(all)
	}
	var text bytes.Buffer
	if err := json.Indent(&text, encode(schema), "", "  "); err != nil {
		panic("schema of tests: " + err.Error())
	}
	text.WriteByte('\n')
	return text.Bytes()
}

func mapping(text []byte) (m map[string]json.RawMessage) {
	if err := json.Unmarshal(text, &m); err != nil {
		panic("schema: " + err.Error())
	}
	return m
}

// encode writes a mapping, and leaves < and > as they are.
func encode(m map[string]json.RawMessage) json.RawMessage {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	if err := e.Encode(m); err != nil {
		panic("schema of tests: " + err.Error())
	}
	return text.Bytes()
}
