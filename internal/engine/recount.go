package engine

import (
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Recount decides an action on a process anew, right before it is done, by all sockets that
// the process holds then. Ages are left out: whoever is counted now by age was counted
// without it, too.
type Recount struct {
	of        *GroupAction
	found     *HoldersFound
	matched   int
	protected bool
}

// Recount begins to count, by who holds the sockets that the process has. It may be called
// from any goroutine.
func (a *GroupAction) Recount(found *HoldersFound) *Recount { return &Recount{of: a, found: found} }

// Take takes in a socket that a scan shows.
func (c *Recount) Take(s *sock.Socket) {
	if s.Inode == 0 || len(c.found.Holders[s.Inode]) == 0 {
		return
	}
	sub := subject.Subject{Socket: s, Holders: c.found.Of(s.Inode)}
	// What is protected of a process that is to end would end with it.
	c.protected = c.protected || match.Any(c.of.protect, sub) != ssfilter.False
	first, _ := sub.Holders.First()
	if first.PID != c.of.Process.PID || first.Start != c.of.Process.Start || match.Any(c.of.rule.Exclude, sub) != ssfilter.False {
		return
	}
	for i := range c.of.rule.Match {
		m := &c.of.rule.Match[i]
		if min(match.Lasts(m, sub), match.AtPresent(m, sub)) == ssfilter.True {
			c.matched++
			return
		}
	}
}

// Judge says why the process must not be acted on any more, or "".
func (c *Recount) Judge() match.Reason {
	switch {
	case c.protected:
		return match.Protected
	case c.matched == 0:
		return match.Unmatched
	}
	for _, when := range c.of.When {
		if more := when.Op == rules.Greater || when.Op == rules.GreaterEqual; more && when.Metric == rules.Count && !when.Holds(float64(c.matched)) {
			return match.GroupEnded
		}
	}
	return ""
}
