package action

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/sockdog/sockdog/rules"
)

// TestSchemaHasEveryKind: an editor that knows the JSON Schema of the rules file offers
// every kind of action, by its name alone and with its options.
func TestSchemaHasEveryKind(t *testing.T) {
	type node struct {
		Enum       []string
		AnyOf      []node
		Properties map[string]node
		Defs       map[string]node `json:"$defs"`
	}
	var root node
	if err := json.Unmarshal(rules.Schema(), &root); err != nil {
		t.Fatal(err)
	}
	action := root.Defs["action"].AnyOf
	if len(action) != 2 || len(action[1].Properties) != len(Kinds()) {
		t.Errorf("the schema has other actions than %v: %+v", InRules(Kinds()), action)
	}
	for _, k := range Kinds() {
		// What is done once for a firing says nothing by its name alone.
		if _, mapped := action[1].Properties[k.Name]; !mapped || slices.Contains(action[0].Enum, k.Name) == k.OncePerFiring() {
			t.Errorf("rules/schema.json lacks the action %s", k.Name)
		}
		var options []string
		for _, o := range k.Options {
			options = append(options, o.Name)
		}
		if k.Destructive && k.On == rules.OnSocket {
			options = append(options, "limit", "order")
		}
		if k.On == rules.OnSocket {
			options = append(options, "after")
		}
		for _, name := range options {
			if _, ok := root.Defs[k.Name].Properties[name]; !ok {
				t.Errorf("rules/schema.json lacks the option %s of %s", name, k.Name)
			}
		}
	}
}
