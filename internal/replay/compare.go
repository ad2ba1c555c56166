package replay

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/sockettable"
	"github.com/sockdog/sockdog/internal/term"
)

// Comparison is what two sets of rules would have done over the same recording.
type Comparison struct {
	New, Old *Result

	pairs []pair // the first to happen first
}

// pair is what both would do, or one of them.
type pair struct {
	by       by
	new, old *Event // nil: it would not
}

// by says which of two sets of rules would do something.
type by string

const (
	both    by = "both"
	earlier by = "earlier" // both, and the new one by more than a scan earlier
	later   by = "later"
	onlyNew by = "only new"
	onlyOld by = "only old"
)

// first is the event of the new rules, or else of the old ones.
func (p *pair) first() *Event { return cmp.Or(p.new, p.old) }

// identity tells what is done from all else that is: the same action on the same connection,
// whichever rule does it; about a group, by the same rule.
type identity struct {
	sock        sock.Key
	src, dst    string
	rule, group string
	action      string
	nth         int // of those that are the same so far
}

// identified are the events in which something would be done.
func identified(r *Result) (ids []identity, of map[identity]*Event) {
	of = make(map[identity]*Event)
	count := make(map[identity]int)
	for i := range r.Events {
		e := &r.Events[i]
		if e.Result != engine.Would && e.Result != firing {
			continue
		}
		id := identity{action: e.Action.Name}
		if e.Socket != nil {
			id.sock, id.src, id.dst = e.sock, e.Socket.Src, e.Socket.Dst
		} else {
			id.rule, id.group = e.Rule, e.on()
		}
		n := count[id]
		count[id], id.nth = n+1, n
		ids, of[id] = append(ids, id), e
	}
	return ids, of
}

// Compare compares what two sets of rules would have done.
func Compare(now, before *Result) *Comparison {
	c := &Comparison{New: now, Old: before}
	ids, fresh := identified(now)
	oldIDs, old := identified(before)
	for _, id := range ids {
		c.pairs = append(c.pairs, pairOf(fresh[id], old[id]))
	}
	for _, id := range oldIDs {
		if fresh[id] == nil {
			c.pairs = append(c.pairs, pairOf(nil, old[id]))
		}
	}
	slices.SortStableFunc(c.pairs, func(a, b pair) int { return cmp.Compare(a.first().At, b.first().At) })
	return c
}

func pairOf(now, before *Event) pair {
	p := pair{by: both, new: now, old: before}
	switch {
	case before == nil:
		p.by = onlyNew
	case now == nil:
		p.by = onlyOld
	case now.Scan < before.Scan-1:
		p.by = earlier
	case now.Scan > before.Scan+1:
		p.by = later
	}
	return p
}

// compared is a pair in -o json.
type compared struct {
	By       by      `json:"by"`
	OldRule  string  `json:"old_rule,omitempty"`
	OldAfter float64 `json:"old_after,omitempty"` // seconds since the first scan
	object
}

// PrintJSON prints an object for each thing that either of them would do.
func (c *Comparison) PrintJSON(out io.Writer) error {
	return term.JSON(out, func(yield func(compared) bool) {
		for i := range c.pairs {
			p := &c.pairs[i]
			o := compared{By: p.by, object: objectOf(p.first())}
			if p.new != nil && p.old != nil {
				o.OldRule, o.OldAfter = p.old.Rule, sockettable.Seconds(p.old.At)
			}
			if !yield(o) {
				return
			}
		}
	})
}

// Print prints how much both would do, and each alone, and the first differences, in lines of
// so many cells at most, where that can be; 0 is no bound.
func (c *Comparison) Print(out io.Writer, cells int) error {
	c.New.printHead(out)
	if err := c.printCounts(out, cells); err != nil {
		return err
	}
	different := 0
	var events []Event
	for i := range c.pairs {
		if c.pairs[i].by != both {
			different++
		}
		events = append(events, *c.pairs[i].first())
	}
	if err := printEvents(out, cells, "BY", func(yield func(string, *Event) bool) {
		for i := range c.pairs {
			p := &c.pairs[i]
			if p.by != both && !yield(p.words(), p.first()) {
				return
			}
		}
	}, different); err != nil {
		return err
	}
	c.New.printNotes(out, events)
	return nil
}

// words say by which rules, and how far apart.
func (p *pair) words() string {
	switch p.by {
	case earlier:
		return "new " + term.Short(p.old.At-p.new.At) + " earlier"
	case later:
		return "new " + term.Short(p.new.At-p.old.At) + " later"
	}
	return string(p.by)
}

// printCounts prints a line for each action of each rule of either: what both would do
// counts for the rule of the new ones.
func (c *Comparison) printCounts(out io.Writer, cells int) error {
	type key struct{ rule, action string }
	counts := make(map[key]map[by]int)
	for i := range c.pairs {
		p := &c.pairs[i]
		k := key{p.first().Rule, p.first().Action.Name}
		if counts[k] == nil {
			counts[k] = make(map[by]int)
		}
		counts[k][p.by]++
	}
	table := term.NewTable("RULE", "ACTION", "BOTH", "OF THOSE EARLIER", "LATER", "ONLY NEW", "ONLY OLD")
	printed := make(map[key]bool)
	for _, set := range []*Result{c.New, c.Old} {
		for i := range set.set.Rules {
			rule := &set.set.Rules[i]
			for _, kind := range kindsOf(rule) {
				k := key{rule.Name, kind}
				if printed[k] {
					continue
				}
				printed[k] = true
				n := counts[k]
				table.Row(rule.Name, kind)
				for _, count := range []int{n[both] + n[earlier] + n[later], n[earlier], n[later], n[onlyNew], n[onlyOld]} {
					table.Row(strconv.Itoa(count))
				}
			}
		}
	}
	if table.Empty() {
		_, err := fmt.Fprintln(out, "Neither has a rule.")
		return err
	}
	return table.Print(out, cells)
}
