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
			reportSeveral(r, n, entries)
			return a
		}
		a.at, a.options = entries[0].Key, entries[0].Value
	}
	readAction(r, &a)
	return a
}

// reportSeveral reports an entry of then that is none or several: options beside the name of
// their action, or another action.
func reportSeveral(r *document.Reader, n *yaml.Node, entries []document.Entry) {
	if len(entries) > 1 {
		k, second := parserOf(r).kindNamed(entries[0].Key.Value), entries[1].Key
		if k != nil && slices.Contains(k.options().Accepted(), second.Value) {
			r.Report(second, "%s is an option of %s: write it below %[2]s, indented", second.Value, k)
			return
		}
	}
	r.Report(n, "an action is one name with its options: begin each with \"- \"")
}

// kindNamed returns the kind of action of that name, or nil.
func (p *parser) kindNamed(name string) *Kind {
	for _, k := range p.kinds {
		if k.Name == name {
			return k
		}
	}
	return nil
}

func readAction(r *document.Reader, a *act) {
	p := parserOf(r)
	if k := p.kindNamed(a.at.Value); k != nil {
		a.Kind = k
		if !p.allows(k) {
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
	if k := p.kindWith(a.at.Value); k != nil {
		r.Report(a.at, "%s is an option of %s, not an action: write - %s: {%[1]s: ...}", a.at.Value, k, k)
		return
	}
	r.Report(a.at, "%s", message.Unknown("action", a.at.Value, "then", p.names))
}

// kindWith returns the first kind of action that has the option, or nil. The names of all
// are collected once: a file may have many mistakes.
func (p *parser) kindWith(option string) *Kind {
	if p.byOption == nil {
		p.byOption = make(map[string]*Kind)
		for _, k := range p.kinds {
			p.names = append(p.names, k.Name)
			for _, name := range k.options().Accepted() {
				if p.byOption[name] == nil {
					p.byOption[name] = k
				}
			}
		}
	}
	return p.byOption[option]
}
