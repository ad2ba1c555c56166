package rules

import (
	"slices"
	"time"

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

var killTable = table[act]{what: "kill", keys: []key[act]{
	field("limit", "at most so many kills in any stretch of that length; absent: 1000/1m, or 60/1m where the states include a live one",
		rate, func(a *act) *Limit { return &a.Limit }),
	field("order", "whose turn it is when the limit holds sockets back; absent: oldest",
		oneOf("order", Oldest, Newest), func(a *act) *Order { return &a.Order }),
	field("after", "act that long after the socket fell due",
		duration, func(a *act) *time.Duration { return &a.After }),
	later[act]("canary"),
}}

var logTable = table[act]{what: "log"}

// An action is a name that then knows.
type action struct {
	kind    Kind
	options *table[act] // nil: the action is not supported yet
}

var actions = []action{
	{Kill, &killTable}, {"shutdown", nil}, {Alert, &alertTable}, {"exec", nil}, {"signal", nil}, {"sysctl", nil}, {Log, &logTable},
}

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
	schema: thenSchema(),
}

func (p *parser) readAction(a *act) {
	var accepted []string
	for _, known := range actions {
		if known.options != nil {
			accepted = append(accepted, string(known.kind))
		}
		if string(known.kind) != a.at.Value {
			continue
		}
		a.Kind = known.kind
		switch {
		case known.options == nil:
			p.report(a.at, "%s is not supported yet", a.at.Value)
		case a.options != nil && isNull(target(a.options)):
			p.report(a.options, "nothing follows the colon: write - %s alone, or give its options", a.at.Value)
		case a.options != nil:
			a.given = readMapping(p, a.options, *known.options, a)
		}
		return
	}
	for _, known := range actions {
		if known.options != nil && slices.Contains(known.options.accepted(), a.at.Value) {
			p.report(a.at, "%s is an option of %s, and no action: write - %s: {%[1]s: ...}", a.at.Value, phrase(known.kind), phrase(known.kind))
			return
		}
	}
	p.report(a.at, "%s", unknown("action", a.at.Value, "then", accepted))
}

func thenSchema() schema {
	var names []Kind
	withOptions := schema{}
	for _, known := range actions {
		if known.options != nil {
			names = append(names, known.kind)
			withOptions[string(known.kind)] = known.options.schema()
		}
	}
	return schema{"anyOf": []schema{
		{"enum": names},
		{"type": "object", "properties": withOptions, "additionalProperties": false, "minProperties": 1, "maxProperties": 1},
	}}
}
