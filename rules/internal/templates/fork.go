package templates

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"sort"
	"text/template/parse"
)

// maxConditions bounds what a template that makes JSON costs to try.
const maxConditions = 32

// branch is one way to go at a condition.
type branch struct {
	*parse.BranchNode
	then bool
}

// forceable reports whether a condition may take the branch whatever it is about.
func (b branch) forceable() bool {
	return b.NodeType == parse.NodeIf && (b.then || b.ElseList != nil) || b.NodeType == parse.NodeWith && !b.then && b.ElseList != nil
}

// trace notes what a run does, and has it take branches.
type trace struct {
	force map[*parse.BranchNode]bool // the way to go at a condition
	taken map[branch]bool
	from  []origin
}

// origin is where output comes from: the byte of the template from that byte on.
type origin struct{ output, template int }

// begin notes that what comes next is that node's.
func (t *trace) begin(output int, n parse.Node) {
	if t != nil {
		t.from = append(t.from, origin{output, int(n.Position())})
	}
}

func (t *trace) take(b *parse.BranchNode, then bool) {
	if t != nil {
		t.taken[branch{b, then}] = true
	}
}

// decide returns the way to go at a condition.
func (t *trace) decide(b *parse.BranchNode, then bool) bool {
	if t != nil {
		if forced, ok := t.force[b]; ok {
			return forced
		}
	}
	return then
}

// forks are the branches of a list, in order, each with the way to it.
func forks(list *parse.ListNode, way []branch) (all [][]branch) {
	if list == nil {
		return nil
	}
	for _, n := range list.Nodes {
		if b := branching(n); b != nil {
			then, other := append(way[:len(way):len(way)], branch{b, true}), append(way[:len(way):len(way)], branch{b, false})
			all = append(append(append(all, then, other), forks(b.List, then)...), forks(b.ElseList, other)...)
		}
	}
	return all
}

// tryJSON holds what a template makes to be JSON, with each trial and then in each
// branch that none of them has taken.
func (l *Language) tryJSON(t *Template, tries *int) *Mistake {
	all := forks(t.tree.Root, nil)
	if len(all) > 2*maxConditions {
		way := all[2*maxConditions]
		at := way[len(way)-1].Position()
		return &Mistake{int(at), fmt.Sprintf("a %s has at most %d conditions, and this has %d", l.What, maxConditions, len(all)/2)}
	}
	taken := make(map[branch]bool)
	for _, trial := range l.Trials {
		r, f := l.tryOnce(t, trial, nil)
		if f != nil {
			return l.failure(trial.When, f)
		}
		if m := l.check(r, trial.When); m != nil {
			return m
		}
		maps.Copy(taken, r.trace.taken)
	}
	for _, way := range all {
		b := way[len(way)-1]
		if taken[b] || !b.forceable() {
			continue
		}
		if *tries--; *tries < 0 {
			return nil
		}
		if m := l.tryBranch(t, way, taken); m != nil {
			return m
		}
	}
	return nil
}

// tryOnce runs the template, by a way as far as that can be forced.
func (l *Language) tryOnce(t *Template, trial Trial, way []branch) (*run, *failure) {
	force := make(map[*parse.BranchNode]bool)
	for _, b := range way {
		if b.NodeType == parse.NodeIf || b.NodeType == parse.NodeWith && !b.then {
			force[b.BranchNode] = b.then
		}
	}
	// No range is in a range: it says no more than a template and a trial make.
	r := &run{Template: t, room: math.MaxInt, trace: &trace{force: force, taken: make(map[branch]bool)}}
	return r, r.execute(trial.Data)
}

// tryBranch takes a branch whatever its condition says. It is wrong if what the template
// makes is JSON with none of the trials that reach it.
func (l *Language) tryBranch(t *Template, way []branch, taken map[branch]bool) (first *Mistake) {
	for _, trial := range l.Trials {
		r, f := l.tryOnce(t, trial, way)
		if f != nil || !r.trace.taken[way[len(way)-1]] {
			continue // it may be right where it is meant to be taken
		}
		m := l.check(r, " in this branch")
		if m == nil {
			maps.Copy(taken, r.trace.taken)
			return nil
		}
		first = cmp.Or(first, m)
	}
	return first
}

// check refuses output that is no JSON, at the byte of the template where that shows.
func (l *Language) check(r *run, when string) *Mistake {
	var v any
	err := json.Unmarshal([]byte(r.text.String()), &v)
	if err == nil {
		return nil
	}
	at := r.text.Len()
	if bad := (*json.SyntaxError)(nil); errors.As(err, &bad) && bad.Offset > 0 {
		at = int(bad.Offset) - 1
	}
	from := r.trace.from
	i := sort.Search(len(from), func(i int) bool { return from[i].output > at }) - 1
	offset := 0
	if i >= 0 {
		offset = min(from[i].template+at-from[i].output, len(r.source))
		if i+1 < len(from) { // an action says more, or less, than it is long
			offset = min(offset, from[i+1].template)
		}
	}
	return &Mistake{offset, "the " + l.What + " is not JSON" + when + ": " + err.Error()}
}
