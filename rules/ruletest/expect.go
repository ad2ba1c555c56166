package ruletest

import (
	"cmp"
	"slices"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/internal/document"
	"github.com/sockdog/sockdog/rules/internal/message"
)

// The results of what is expected.
var (
	results = []string{"done", "would", "held", "changed", "gone", "failed", "unconfirmed"}
	phases  = []string{"firing", "resolved"} // of alerts, and of groups that are logged
)

// PutBack is the result where what was done is put back, of kinds that do so.
const PutBack = "put_back"

// expectDraft is an expectation as it stands.
type expectDraft struct {
	Expectation
	given        document.Given
	rule, action document.Placed[string]
	result       document.Placed[string]
	socket       document.Placed[string]
	keptBy       document.Placed[string]
}

var expectTable = document.Table[expectDraft]{What: "an expectation", Keys: []document.Key[expectDraft]{
	document.Field("at", at, func(e *expectDraft) *time.Duration { return &e.At }).Required("how long after the beginning"),
	document.Field("within", duration, func(e *expectDraft) *time.Duration { return &e.Within }),
	document.Field("rule", document.WithPlace(document.Text), func(e *expectDraft) *document.Placed[string] { return &e.rule }).Required("which one acts"),
	document.Field("action", document.WithPlace(document.Text), func(e *expectDraft) *document.Placed[string] { return &e.action }),
	document.Field("result", document.WithPlace(document.Text), func(e *expectDraft) *document.Placed[string] { return &e.result }),
	document.Field("socket", document.WithPlace(document.Text), func(e *expectDraft) *document.Placed[string] { return &e.socket }),
	document.Field("count", number[int](1, maxSockets), func(e *expectDraft) *int { return &e.Count }),
	document.Field("group", group, func(e *expectDraft) *map[string]string { return &e.Group }),
	document.Field("kept_by", document.WithPlace(document.Text), func(e *expectDraft) *document.Placed[string] { return &e.keptBy }),
}, Synonyms: map[string][]string{"name": {"rule", "socket"}, "alertname": {"rule"}, "reason": {"kept_by"}, "because": {"kept_by"}, "labels": {"group"}}}

// group is what a group's sockets have in common.
func group(r *document.Reader, n *yaml.Node) map[string]string {
	all := map[string]string{}
	for _, e := range r.Named(n, "a group") {
		if !slices.Contains(rules.GroupKeys, rules.GroupKey(e.Key.Value)) {
			r.Report(e.Key, "%v", message.Unknown("key", e.Key.Value, "group", document.Strings(rules.GroupKeys)))
			continue
		}
		all[e.Key.Value] = document.Text(r, e.Value)
	}
	return all
}

// readExpect reads what is expected.
func (c *caseDraft) readExpect(r *document.Reader) {
	last := time.Duration(0)
	one := func(r *document.Reader, n *yaml.Node) *expectDraft {
		before := r.Reports()
		e := &expectDraft{}
		e.Socket, e.Line = -1, n.Line
		if e.given = document.ReadMapping(r, n, expectTable, e); e.given == nil || r.Reports() > before {
			return nil
		}
		if e.At < last {
			r.Report(e.given["at"], "the time goes backwards, from %v to %v: write what is to happen in the order in which it does", last, e.At)
		}
		last = max(last, e.At)
		c.checkExpectation(r, e)
		return e
	}
	all := document.ListOf(one)(r, c.expect)
	for _, e := range all {
		if e != nil {
			c.Expect = append(c.Expect, e.Expectation)
		}
	}
	switch {
	case !c.given.Has("until") && len(all) == 0 && document.Target(c.expect).Kind == yaml.SequenceNode:
		r.Report(c.given["expect"], "say in until how long nothing is to happen, such as until: 1h")
	case !c.given.Has("until"):
		c.Until = last // and as long as that may take
	case last > c.Until:
		r.Report(c.given["until"], "the test ends before the last of what is expected, at %v", last)
	}
}

// checkExpectation finds what an expectation is about, and completes it.
func (c *caseDraft) checkExpectation(r *document.Reader, e *expectDraft) {
	c.findSocket(r, e)
	rule := parserOf(r).findRule(e)
	if rule == nil {
		return
	}
	e.Rule = rule.Name
	if e.given.Has("kept_by") {
		c.checkKept(r, e)
		return
	}
	if !e.findAction(r, rule) {
		return
	}
	logs := e.Action == rules.Log && len(rule.When) > 0
	known := results
	switch {
	case e.Action == rules.Alert || logs:
		known = phases
	case e.Action.Reverts:
		known = append(slices.Clone(results), PutBack)
	}
	if e.Action == rules.Alert || logs || e.Action.OncePerFiring() {
		for _, key := range []string{"socket", "count"} {
			if e.given.Has(key) {
				r.Report(e.given[key], "%s is about a group here, and not about a socket: remove %s", message.Phrase(e.Action.Name), message.Phrase(key))
			}
		}
	} else if e.given.Has("group") {
		r.Report(e.given["group"], "%s is about single sockets: name the socket, or say in count how many there are", message.Phrase(e.Action.Name))
	}
	e.Result = cmp.Or(e.result.Value, known[0])
	if !slices.Contains(known, e.Result) {
		r.Report(e.result.At, "%v", message.Unknown("result", e.Result, message.Phrase("an expectation of "+e.Action.Name), known))
	}
}

func (c *caseDraft) findSocket(r *document.Reader, e *expectDraft) {
	if !e.given.Has("socket") {
		e.Count = max(1, e.Count)
		return
	}
	i, known := c.names[e.socket.Value]
	if !known {
		r.Report(e.socket.At, "%v", message.Unknown("socket", e.socket.Value, "this test", c.known()))
		return
	}
	e.Socket = i
	all := c.sockets[i].Count
	if e.Count > all {
		r.Report(e.given["count"], "there are only %d of the socket %q", all, e.socket.Value)
	}
	e.Count = cmp.Or(e.Count, all)
}

// findRule returns the rule that is expected to act; nil: there is none, or nothing is known
// of the rules.
func (p *parser) findRule(e *expectDraft) *rules.Rule {
	if p.set == nil {
		return nil
	}
	var names []string
	for i := range p.set.Rules {
		if p.set.Rules[i].Name == e.rule.Value {
			return &p.set.Rules[i]
		}
		names = append(names, p.set.Rules[i].Name)
	}
	p.Report(e.rule.At, "%v", message.Unknown("rule", e.rule.Value, "the rules", names))
	return nil
}

// findAction finds the action of the rule that is meant: its only one, where none is named.
func (e *expectDraft) findAction(r *document.Reader, rule *rules.Rule) bool {
	var names []string
	for _, a := range rule.Then {
		if e.given.Has("action") && a.Kind.Name == e.action.Value {
			e.Action = a.Kind
			return true
		}
		if !slices.Contains(names, a.Kind.Name) {
			names = append(names, a.Kind.Name)
		}
	}
	switch {
	case e.given.Has("action"):
		r.Report(e.action.At, "%v", message.Unknown("action", e.action.Value, message.Phrase("the rule "+rule.Name), names))
		return false
	case len(names) > 1:
		r.Report(e.rule.At, "the rule %s has several actions: say in action which one is meant: %s", message.Phrase(rule.Name), message.List(names))
		return false
	}
	e.Action = rule.Then[0].Kind
	return true
}

// checkKept holds an expectation that nothing happens to what it can say.
func (c *caseDraft) checkKept(r *document.Reader, e *expectDraft) {
	for _, key := range []string{"action", "result", "count", "group", "within"} {
		if e.given.Has(key) {
			r.Report(e.given[key], "with kept_by nothing happens to the socket at that time: remove %s", message.Phrase(key))
		}
	}
	if e.Socket < 0 && !e.given.Has("socket") {
		r.Report(e.given["kept_by"], "say in socket which one is kept")
	}
	words := parserOf(r).KeptBy
	if e.KeptBy = e.keptBy.Value; !slices.Contains(words, e.KeptBy) {
		r.Report(e.keptBy.At, "%v", message.Unknown("reason", e.KeptBy, "kept_by", words))
	}
}
