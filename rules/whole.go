package rules

import (
	"slices"

	"github.com/sockdog/sockdog/rules/internal/document"
)

// Whole reports whether the rule is about no sockets, but about a network namespace or the
// host as a whole.
func (r *Rule) Whole() bool { return Whole(r.When) }

// Whole reports whether the conditions of a rule are about a network namespace or the host
// as a whole.
func Whole(when []Condition) bool { return len(when) > 0 && !when[0].Metric.OfSockets() }

// whole returns the first condition that is about a network namespace or the host as a
// whole; nil: none is.
func (d *draft) whole() *document.Placed[Condition] {
	all := slices.Concat(d.when, d.until)
	i := slices.IndexFunc(all, func(c document.Placed[Condition]) bool { return c.Value.Metric != "" && !c.Value.Metric.OfSockets() })
	if i < 0 {
		return nil
	}
	return &all[i]
}

// checkWhole holds a rule about a network namespace or the host as a whole to what such a
// rule can say, and every other rule to having a match.
func checkWhole(r *document.Reader, d *draft) {
	first := d.whole()
	if first == nil {
		misspelt := d.given.Has("when") && !d.given.Wrote("when")
		if !d.given.Has("match") && !misspelt && readable(d.when) {
			r.Report(document.Target(d.at), "a rule needs the key \"match\": the sockets that the rule is about: all keys of a mapping must hold, and any mapping of a list")
		}
		return
	}
	metric := first.Value.Metric
	of := slices.IndexFunc(slices.Concat(d.when, d.until), func(c document.Placed[Condition]) bool {
		return c.Value.Metric != "" && c.Value.Metric.OfSockets()
	})
	if of >= 0 {
		r.Report(first.At, "%s is of a network namespace or the host as a whole, and not of a group of sockets: put it into a rule of its own", metric)
		return
	}
	for _, key := range []string{"match", "exclude"} {
		if d.given.Wrote(key) {
			r.Report(d.given[key], "%s is not about single sockets: leave %s out", metric, key)
		}
	}
	for _, by := range d.groupBy {
		if by.Value != ByNetns && by.Value != "" {
			r.Report(by.At, "%s is of a network namespace or the host as a whole: it cannot be told by %s", metric, by.Value)
		}
	}
	if i := slices.IndexFunc(slices.Concat(d.when, d.until), func(c document.Placed[Condition]) bool {
		return c.Value.Metric == Orphans || c.Value.Metric == TCPMemory
	}); i >= 0 && len(d.groupBy) > 0 {
		r.Report(d.given["group_by"], "%s is of the whole host: leave group_by out", slices.Concat(d.when, d.until)[i].Value.Metric)
	}
	for _, a := range d.then {
		if a.destroys() {
			r.Report(a.at, "a rule about %s has no sockets for %s to act on: alert, and let a rule about sockets act", metric, a.Kind)
		}
	}
}
