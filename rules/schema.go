package rules

import "encoding/json"

// schema is a node of a JSON Schema.
type schema map[string]any

// Schema returns the JSON Schema (draft 2020-12) of the rules file, made from
// the tables that Parse reads by. It knows names and forms; what the keys of a
// rule demand of each other only Parse knows.
func Schema() []byte {
	s := fileTable.schema()
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "sockdog rules"
	out, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic(err) // the tables hold strings, numbers, booleans and lists of them
	}
	return append(out, '\n')
}
