package rules

import (
	"slices"

	"gopkg.in/yaml.v3"
)

// act is one entry of then as it stands in the file.
type act struct {
	Action
	at      *yaml.Node // its name
	given   given
	options *yaml.Node

	summary, description *yaml.Node // of an alert
}

// destroys reports whether the action takes something away. One that could not be
// read does not.
func (a *act) destroys() bool { return a.Kind != nil && a.Kind.Destructive }

// unsupported are actions of the format that are not built.
var unsupported = []string{"shutdown", "exec", "signal", "sysctl"}

// then is one entry: the name of an action, or a mapping from it to its options.
var then = value[act]{
	read: func(p *parser, n *yaml.Node) act {
		if n = p.resolve(n); n == nil {
			return act{}
		}
		a := act{at: n}
		switch n.Kind {
		case yaml.SequenceNode:
			p.report(n, "an action belongs here, not a list within the list")
			return a
		case yaml.MappingNode:
			entries := p.entries(n, 0)
			if len(entries) != 1 {
				p.report(n, "an action is one name with its options: begin each with a \"- \" of its own")
				return a
			}
			a.at, a.options = entries[0].key, entries[0].value
		}
		p.readAction(&a)
		return a
	},
	schema: thenSchema(builtInKinds),
}

func (p *parser) readAction(a *act) {
	var names []string
	for _, k := range p.kinds {
		names = append(names, k.Name)
		if k.Name != a.at.Value {
			continue
		}
		a.Kind = k
		switch {
		case a.options != nil && isNull(target(a.options)):
			p.report(a.options, "nothing follows the colon: write - %s alone, or give its options", a.at.Value)
		case a.options != nil:
			a.given = readMapping(p, a.options, k.options(), a)
		}
		return
	}
	if slices.Contains(unsupported, a.at.Value) {
		p.report(a.at, "%s is not supported yet", a.at.Value)
		return
	}
	for _, k := range p.kinds {
		if slices.Contains(k.options().accepted(), a.at.Value) {
			p.report(a.at, "%s is an option of %s, and no action: write - %s: {%[1]s: ...}", a.at.Value, phrase(k.Name), phrase(k.Name))
			return
		}
	}
	p.report(a.at, "%s", unknown("action", a.at.Value, "then", names))
}

func thenSchema(kinds []*Kind) schema {
	withOptions := schema{}
	for _, k := range kinds {
		withOptions[k.Name] = k.options().schema()
	}
	return schema{"anyOf": []schema{
		{"enum": kinds},
		{"type": "object", "properties": withOptions, "additionalProperties": false, "minProperties": 1, "maxProperties": 1},
	}}
}
