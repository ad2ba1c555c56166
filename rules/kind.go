package rules

import (
	"slices"
	"time"

	"gopkg.in/yaml.v3"
)

// Kind is one kind of action: its name in then, and what the format holds a rule
// to that has it.
type Kind struct {
	Name string
	// Destructive kinds take something away from a program. They have the options
	// limit, order and after, and their rules must name states and say for how long.
	Destructive bool
	Options     []Option // that no other kind has
}

// Option is an option of one kind of action, whose value is a scalar.
type Option struct {
	Name, Doc string
	Read      func(text string) (any, error) // the value, or what is wrong with the text
}

// The kinds of actions that every rules file may name.
var (
	Kill  = &Kind{Name: "kill", Destructive: true}
	Alert = &Kind{Name: "alert"} // its keys are those of alertTable
	Log   = &Kind{Name: "log"}
)

var builtInKinds = []*Kind{Kill, Alert, Log}

// kindsWith are all kinds that a file may name.
func kindsWith(more []*Kind) []*Kind {
	all := slices.Clone(builtInKinds)
	for _, k := range more {
		if !slices.Contains(all, k) {
			all = append(all, k)
		}
	}
	return all
}

// String is the name of the kind.
func (k *Kind) String() string { return k.Name }

// MarshalText has the kind stand for its name in JSON.
func (k *Kind) MarshalText() ([]byte, error) { return []byte(k.Name), nil }

// destructiveKeys are the options of every destructive kind.
var destructiveKeys = []key[act]{
	field("limit", "at most so many in any stretch of that length; absent: 1000/1m, or 60/1m where the states include a live one",
		rate, func(a *act) *Limit { return &a.Limit }),
	field("order", "whose turn it is when the limit holds sockets back; absent: oldest",
		oneOf("order", Oldest, Newest), func(a *act) *Order { return &a.Order }),
	field("after", "act that long after the socket fell due",
		duration, func(a *act) *time.Duration { return &a.After }),
}

// options is the table of what the kind may be given.
func (k *Kind) options() table[act] {
	if k == Alert {
		return alertTable
	}
	t := table[act]{what: k.Name}
	if k.Destructive {
		t.keys = append(t.keys, destructiveKeys...)
	}
	if k == Kill {
		t.keys = append(t.keys, later[act]("canary"))
	}
	for _, o := range k.Options {
		read := scalar(o.Doc, schema{"type": []string{"string", "number", "boolean"}}, o.Read)
		t.keys = append(t.keys, key[act]{name: o.Name, doc: o.Doc, schema: read.schema, read: func(p *parser, _, n *yaml.Node, a *act) {
			if a.Options == nil {
				a.Options = make(map[string]any)
			}
			a.Options[o.Name] = read.read(p, n)
		}})
	}
	return t
}
