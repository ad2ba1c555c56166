package rules

import (
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/sockdog/sockdog/rules/internal/document"
	"github.com/sockdog/sockdog/rules/internal/message"
)

// act is one entry of then as it stands in the file.
type act struct {
	Action
	at      *yaml.Node // its name
	given   document.Given
	options *yaml.Node

	summary, description *yaml.Node // of an alert
}

// destroys reports whether the action takes something away. One that could not be
// read does not.
func (a *act) destroys() bool { return a.Kind != nil && a.Kind.Destructive }

// takes reports whether the action takes sockets away.
func (a *act) takes() bool { return a.destroys() && a.Kind.On == OnSocket }

// unsupported are actions of the format that are not built.
var unsupported = []string{"sysctl"}

// then is one entry: the name of an action, or a mapping from it to its options.
func then(r *document.Reader, n *yaml.Node) act {
	if n = r.Resolve(n); n == nil {
		return act{}
	}
	a := act{at: n}
	switch n.Kind {
	case yaml.SequenceNode:
		r.Report(n, "an action belongs here, not a list within the list")
		return a
	case yaml.MappingNode:
		entries := r.Entries(n, 0)
		if len(entries) != 1 {
			r.Report(n, "an action is one name with its options: begin each with \"- \"")
			return a
		}
		a.at, a.options = entries[0].Key, entries[0].Value
	}
	readAction(r, &a)
	return a
}

func readAction(r *document.Reader, a *act) {
	kinds := parserOf(r).kinds
	var names []string
	for _, k := range kinds {
		names = append(names, k.Name)
		if k.Name != a.at.Value {
			continue
		}
		a.Kind = k
		if p := parserOf(r); !p.allows(k) {
			r.Report(a.at, "%s is not allowed here: whoever runs sockdog must say so, with --allow %s", k, strings.Join(append(p.allowed, k.Name), ","))
		}
		switch {
		case a.options != nil && document.IsNull(document.Target(a.options)):
			r.Report(a.options, "nothing follows the colon: write - %s alone, or give its options", a.at.Value)
		case k == Signal && a.options != nil && document.Target(a.options).Kind == yaml.ScalarNode:
			readSignal(r, a.options, a)
		case a.options != nil:
			a.given = document.ReadMapping(r, a.options, k.options(), a)
		}
		return
	}
	if slices.Contains(unsupported, a.at.Value) {
		r.Report(a.at, "%s is not supported yet", a.at.Value)
		return
	}
	for _, k := range kinds {
		if slices.Contains(k.options().Accepted(), a.at.Value) {
			r.Report(a.at, "%s is an option of %s, not an action: write - %s: {%[1]s: ...}", a.at.Value, k, k)
			return
		}
	}
	r.Report(a.at, "%s", message.Unknown("action", a.at.Value, "then", names))
}
