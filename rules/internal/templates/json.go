package templates

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"text/template/parse"
	"time"
)

// written is a value that is written as JSON already.
type written string

func toJSON(v any) (written, error) {
	if text, ok := v.(written); ok {
		return text, nil
	}
	text, err := json.Marshal(v)
	return written(text), err
}

// toText is a value as it stands within quotes.
func toText(v any) (written, error) {
	text := fmt.Sprint(v)
	switch v := v.(type) {
	case time.Time:
		text = v.Format(time.RFC3339)
	case written, string, bool, int, float64:
	default:
		return "", errors.New("quotes cannot hold a mapping or a list: write json before it, or leave the quotes out")
	}
	quoted, err := toJSON(text)
	if err != nil {
		return "", err
	}
	return quoted[1 : len(quoted)-1], nil
}

// quotes are where a place in JSON is.
type quotes struct {
	within  bool // quotes
	escaped bool // the next character is, by a backslash
}

// quote follows the quotes of a text of JSON.
func (r *run) quote(n *parse.TextNode) {
	if !r.json {
		return
	}
	for i, c := range n.Text {
		switch {
		case r.quotes.escaped:
			r.quotes.escaped = false
		case r.quotes.within && c == '\\':
			r.quotes.escaped = true
		case c == '"':
			r.quotes.within = !r.quotes.within
			r.opened = int(n.Pos) + i
		}
	}
}

// sayJSON is a value as its place in the JSON wants it.
func (r *run) sayJSON(v reflect.Value) string {
	if r.quotes.escaped {
		r.refuse(r.at, "the backslash before this would escape what it says: write \\\\ for a backslash")
	}
	var value any
	if v.IsValid() {
		value = v.Interface()
	}
	as := toJSON
	if r.quotes.within {
		as = toText
	}
	text, err := as(value)
	if err != nil {
		r.fail("%v", err)
	}
	return string(text)
}

// closes holds the iteration of a range to end as it began.
func (r *run) closes(n parse.Node) {
	if r.quotes.within != r.begun.within || r.quotes.escaped {
		r.refuse(n, "each iteration of range must close the quotes that it opens")
	}
}

// maxConditions bounds what a template that makes JSON costs to try.
const maxConditions = 32

// ParseJSON reads a template that makes JSON: values within quotes are escaped there, and
// values elsewhere are written as JSON. It is tried as Parse does, and what it makes must
// be JSON, whichever branches it takes; each branch that no trial takes costs one of
// tries, and is not tried where there is none left.
func (l *Language) ParseJSON(text string, tries *int) (*Template, *Mistake) {
	if at := strings.IndexFunc(text, func(r rune) bool { return r < ' ' && !strings.ContainsRune("\n\r\t", r) }); at >= 0 {
		return nil, &Mistake{at, "JSON holds no control characters: write \\u and its number"}
	}
	every := &trial{}
	t, m := l.parse(text, every)
	if m != nil {
		return nil, m
	}
	var conditions []*parse.BranchNode
	for _, b := range every.taken {
		if !slices.Contains(conditions, b.at) {
			conditions = append(conditions, b.at)
		}
	}
	if len(conditions) > maxConditions {
		at := conditions[maxConditions].Position()
		return nil, &Mistake{int(at), fmt.Sprintf("a %s has at most %d conditions, and this has %d", l.What, maxConditions, len(conditions))}
	}
	if m := l.tryJSON(t, tries); m != nil {
		return nil, m
	}
	return t, nil
}

// trial notes what a run does, and where its output is from.
type trial struct {
	force map[*parse.BranchNode]bool // conditions that hold, or do not, whatever they say
	taken []branch
	from  []origin
}

// branch is one way to go at a condition.
type branch struct {
	at   *parse.BranchNode
	then bool
}

// origin is where output comes from: the byte of the template from that byte on.
type origin struct{ output, template int }

func (t *trial) comesTo(n parse.Node, output int) {
	if t != nil {
		t.from = append(t.from, origin{output, int(n.Position())})
	}
}

// takes reports whether a condition that holds, or does not, is to be taken so.
func (t *trial) takes(b *parse.BranchNode, holds bool) bool {
	if t == nil {
		return holds
	}
	if forced, ok := t.force[b]; ok {
		holds = forced
	}
	t.taken = append(t.taken, branch{b, holds})
	return holds
}

// other is the way that was not gone, if there is one, and it can be whatever the
// condition is about.
func (b branch) other() (to branch, ok bool) {
	to = branch{b.at, !b.then}
	if to.then {
		return to, b.at.NodeType == parse.NodeIf
	}
	return to, b.at.NodeType != parse.NodeRange && b.at.ElseList != nil
}

// tryJSON holds what a template makes to be JSON, with each trial and then in each
// branch that none of them has taken.
func (l *Language) tryJSON(t *Template, tries *int) *Mistake {
	var runs []*trial
	taken := map[branch]bool{}
	add := func(on *trial) {
		runs = append(runs, on)
		for _, b := range on.taken {
			taken[b] = true
		}
	}
	for _, data := range l.Trials {
		on := &trial{}
		if m, _ := l.try(t, on, data); m != nil {
			return m
		}
		add(on)
	}
	for i := 0; i < len(runs); i++ {
		for _, b := range runs[i].taken {
			to, ok := b.other()
			if !ok || taken[to] {
				continue
			}
			taken[to] = true
			if *tries--; *tries < 0 {
				return nil
			}
			force := map[*parse.BranchNode]bool{to.at: to.then}
			maps.Copy(force, runs[i].force)
			on, m := l.tryBranch(t, to, force)
			switch {
			case m != nil:
				return m
			case on != nil:
				add(on)
			}
		}
	}
	return nil
}

// tryBranch takes a branch whatever its condition says. It is wrong if what the template
// makes is JSON with none of the trials that reach it.
func (l *Language) tryBranch(t *Template, to branch, force map[*parse.BranchNode]bool) (good *trial, first *Mistake) {
	for _, data := range l.Trials {
		on := &trial{force: force}
		data.When = " in this branch"
		switch m, made := l.try(t, on, data); {
		case !made || !slices.Contains(on.taken, to): // it may be right where it is meant to be taken
		case m == nil:
			return on, nil
		case first == nil:
			first = m
		}
	}
	return nil, first
}

// try executes the template and refuses output that is no JSON, at the byte of the
// template where that shows.
func (l *Language) try(t *Template, on *trial, data Trial) (m *Mistake, made bool) {
	r := run{Template: t, lang: l, when: data.When, trial: on} // says no more than a template and a trial make, as no range is in a range
	if m := r.execute(data.Data); m != nil {
		return m, false
	}
	text := r.out.String()
	var v any
	err := json.Unmarshal([]byte(text), &v)
	if err == nil {
		return nil, true
	}
	at, offset := len(text), 0
	if bad := (*json.SyntaxError)(nil); errors.As(err, &bad) && bad.Offset > 0 {
		at = int(bad.Offset) - 1
	}
	for _, o := range on.from {
		if o.output > at {
			offset = min(offset, o.template) // an action says more, or less, than it is long
			break
		}
		offset = min(o.template+at-o.output, len(t.text))
	}
	return &Mistake{offset, "the " + l.What + " is not JSON" + data.When + ": " + err.Error()}, true
}
