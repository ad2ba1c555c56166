// Package acting decides which actions on whole groups are due: each once while a group
// fires, that long after it began to, and none within the rule's cooldown. It knows neither
// what they do nor who does them.
package acting

import (
	"cmp"
	"time"

	"github.com/sockdog/sockdog/internal/engine/group"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// Due is an action on a group that is due.
type Due struct {
	Key    group.Key
	Group  *group.Group
	Action int // which of the rule's
	At     sock.Instant
}

// State is what is remembered of a rule's actions on groups, beside what its groups
// remember of theirs.
type State struct {
	rule   *match.Rule
	groups *group.Set
	fresh  bool         // something has changed since it was decided last
	next   sock.Instant // when an action falls due by time alone
}

// New returns the state of the actions of a rule on these groups.
func New(r *match.Rule, groups *group.Set) *State {
	return &State{rule: r, groups: groups, next: sock.Never}
}

// Recompiled takes over the rule as a reload has compiled it anew.
func (st *State) Recompiled(r *match.Rule) { st.rule = r }

// Changed notes that the groups have taken in a sample, or that an action has ended.
func (st *State) Changed() { st.fresh = true }

// Pending reports whether there is something to decide.
func (st *State) Pending(now sock.Instant) bool { return st.fresh || now >= st.next }

// Wait has it decided at that instant, at the latest, what is due.
func (st *State) Wait(at sock.Instant) { st.next = min(st.next, at) }

// Next returns when something is to be decided by time alone.
func (st *State) Next() sock.Instant { return st.next }

// Bit returns the bit that stands for an action of the rule in group.Acts.
func (st *State) Bit(action int) (bit uint16) {
	bit = 1
	for j := range st.rule.Then[:action] {
		if st.rule.Then[j].Kind.OncePerFiring() {
			bit <<= 1
		}
	}
	return bit
}

// Due returns the actions that are due, at most so many: of the groups that have fired for
// the longest, and of each group the first. free says from when on an action on a group may be
// done that something holds back. stale says that something would be due, and that no scan has
// shown for too long whether its group still fires.
func (st *State) Due(now sock.Instant, trusted time.Duration, most int, free func(g *group.Group, action int) sock.Instant) (due []Due, stale bool) {
	st.fresh, st.next = false, sock.Never
	order := func(a, b Due) int { return cmp.Or(cmp.Compare(a.At, b.At), cmp.Compare(a.Key, b.Key)) }
	for key, g := range st.groups.All() {
		if g.Firing == sock.Never {
			continue
		}
		first, ok := st.first(g, now, free)
		if !ok {
			continue
		}
		if st.groups.FiringGroup(key, now, trusted) == nil {
			stale = true // the scan that shows it decides anew
			continue
		}
		first.Key = key
		due = group.KeepLeast(due, most, first, order)
	}
	if len(due) == most {
		st.next = min(st.next, now.Add(time.Second)) // there may be more
	}
	return due, stale
}

// first returns the action on a group that is due and comes first. Of those on its process,
// none comes before one that stands before it, and that a limit holds back: it is the harder one.
func (st *State) first(g *group.Group, now sock.Instant, free func(g *group.Group, action int) sock.Instant) (first Due, ok bool) {
	bit, held := uint16(1), false
	for j := range st.rule.Then {
		a := &st.rule.Then[j]
		if !a.Kind.OncePerFiring() {
			continue
		}
		done, onProcess := g.Acts.Done&bit != 0, a.Kind.On == rules.OnProcess
		bit <<= 1
		if done || onProcess && (held || !g.Acts.Settled()) {
			continue
		}
		at := max(g.Acts.From.Add(a.After), g.Acts.Again)
		if at <= now {
			at = max(at, min(free(g, j), sock.Never))
			held = held || onProcess && at > now
		}
		switch {
		case at > now:
			st.next = min(st.next, at)
		case !ok || at < first.At:
			first, ok = Due{Group: g, Action: j, At: at}, true
		}
	}
	return first, ok
}
