package group

import (
	"cmp"
	"slices"

	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sock"
)

// MaxTransitions is how many groups of a rule that change their phase at once are told one
// by one.
const MaxTransitions = 100

// A Transition is a group's change from one phase to another.
type Transition struct {
	Group []subject.Label
	Measured
	From, To Phase
	Since    sock.Instant // the condition has held since, or did
}

// Changes is what a sample has changed.
type Changes struct {
	Transitions []Transition
	Unlisted    int // transitions beyond MaxTransitions
	Fired       int // groups that began to fire
	Omitted     int // sockets beyond MaxGroups
	Ended       int // groups without sockets that were ended to make room for others
}

// Any reports whether a group has changed its phase.
func (c *Changes) Any() bool { return len(c.Transitions)+c.Unlisted+c.Ended > 0 }

// moved notes that a group has changed its phase, in which its condition has held
// since then, or had.
func (rg *Set) moved(c *Changes, key Key, g *Group, from Phase, since sock.Instant) {
	to := g.Phase()
	rg.phases[from]--
	rg.phases[to]++
	if to == Firing {
		c.Fired++
	}
	if len(c.Transitions) == MaxTransitions {
		c.Unlisted++
		return
	}
	c.Transitions = append(c.Transitions, Transition{Group: rg.Labels(key), Measured: g.Measured, From: from, To: to, Since: since})
}

// sort puts the groups that fire behind those that have ended, whose labels they may have: a
// pid is given away.
func (c *Changes) sort() {
	fires := func(t Transition) int {
		if t.To == Firing {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(c.Transitions, func(a, b Transition) int {
		return cmp.Or(fires(a)-fires(b), subject.Compare(a.Group, b.Group))
	})
}
