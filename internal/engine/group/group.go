package group

import (
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Phase is how a group stands towards its rule.
type Phase string

// The phases of a group.
const (
	Quiet   Phase = "quiet"   // its rule's when does not hold
	Pending Phase = "pending" // when holds, and not yet for long enough
	Firing  Phase = "firing"
)

// Measured is what is known of a group by its last sample. What no condition of
// its rule asks for may be zero, but for Count and Oldest.
type Measured struct {
	Count        int
	Growth       float64       // sockets a minute
	PortUsage    float64       // percent
	BacklogUsage float64       // percent
	FDUsage      float64       // percent
	ListenDrops  float64       // a minute
	Orphans      float64       // percent
	TCPMemory    float64       // percent
	Oldest       time.Duration // in its state, at least; 0: not known
}

// Of is the value that a condition on the metric compares.
func (m *Measured) Of(metric rules.Metric) float64 {
	switch metric {
	case rules.Count:
		return float64(m.Count)
	case rules.Growth:
		return m.Growth
	case rules.PortUsage:
		return m.PortUsage
	case rules.FDUsage:
		return m.FDUsage
	case rules.ListenDrops:
		return m.ListenDrops
	case rules.Orphans:
		return m.Orphans
	case rules.TCPMemory:
		return m.TCPMemory
	default:
		return m.BacklogUsage
	}
}

// Text is that value, to a tenth and in its unit.
func (m *Measured) Text(metric rules.Metric) string {
	return strconv.FormatFloat(math.Round(10*m.Of(metric))/10, 'f', -1, 64) + metric.Unit()
}

// all reports whether each of the conditions holds.
func (m *Measured) all(conditions []rules.Condition) bool {
	return !slices.ContainsFunc(conditions, func(c rules.Condition) bool { return !c.Holds(m.Of(c.Metric)) })
}

// nothing reports whether there is nothing of the group any more.
func (m *Measured) nothing() bool {
	return m.Count == 0 && m.Growth == 0 && m.PortUsage == 0 && m.ListenDrops == 0
}

// Nearness returns how much of the way to its threshold a value has gone, from
// whichever side: 1 where the condition holds.
func Nearness(c rules.Condition, value float64) float64 {
	switch most := max(value, c.Number); {
	case c.Holds(value):
		return 1
	case most == 0:
		return 0
	default:
		return min(value, c.Number) / most
	}
}

// Group is one group of a rule that is worth remembering: its condition holds or
// it fires, or its growth is counted, or an alert about it goes on.
type Group struct {
	Measured
	Holding  sock.Instant // since when its condition has held; Never: it does not
	Firing   sock.Instant // since when it fires; Never: it does not
	Ended    sock.Instant // when it last ceased to fire; Never: it fires, or never did
	Alerts   []Alert      // that have begun about it
	Acts     Acts         // what was done about it
	Peak     int          // the highest count since it fires
	Examples []Example    // of its sockets, by the last scan that had enough of them
	growing  *growth
	busy     sock.Instant // when it last had a socket
	known    sock.Instant // when it was last measured, in an earlier run perhaps

	// stale says that the group fires, and that no scan was made for too long, in this
	// run or between it and the one before: nothing is done to its sockets before its
	// condition is shown to hold as for a new one.
	stale      bool
	shownAgain sock.Instant // since when that has been shown; Never: it has not
}

// Alert is what is remembered of an alert about a group.
type Alert struct {
	Action         int // which of the rule's
	Since, Started sock.Instant
	Sent           bool // by itself, and not among the overflow
}

// Example is one of the sockets of a group.
type Example struct {
	Peer    ssfilter.Endpoint
	Inode   uint32        // 0: it has none
	Holders []sock.Holder // as far as the engine knows them
	Key     sock.Key
}

func newGroup() *Group {
	return &Group{Holding: sock.Never, Firing: sock.Never, Ended: sock.Never, shownAgain: sock.Never}
}

// Phase returns how the group stands.
func (g *Group) Phase() Phase {
	switch {
	case g.Firing != sock.Never:
		return Firing
	case g.Holding != sock.Never:
		return Pending
	default:
		return Quiet
	}
}

// sample takes in what one whole scan, or the counters, say of the group: that
// was so at an instant between sent and got. The group changes its phase by that
// alone: a scan that failed neither counts nor resets. Counting from the got of
// one sample to the sent of another, it never fires early, nor by less than two.
func (g *Group) sample(r *rules.Rule, m Measured, sent, got sock.Instant) {
	g.Measured = m
	if !g.stale {
		g.known = got // else an earlier run knew it, and the next one is to doubt it, too
	}
	if m.Count > 0 {
		g.busy = got
	}
	// A group by properties is there as long as a socket has them, and that of a rule
	// about single sockets as long as one is due.
	vanished := (len(r.GroupBy) > 0 || len(r.When) == 0) && m.nothing()
	holds := m.all(r.When) && !vanished
	if g.Firing != sock.Never {
		g.revalidate(r, holds, sent, got)
		g.Acts.sample(r, holds, sent, got)
		g.Peak = max(g.Peak, m.Count)
		over := !holds
		if len(r.Until) > 0 {
			over = m.all(r.Until)
		}
		if over {
			g.end(got)
		}
		return
	}
	if !holds {
		g.Holding = sock.Never
		return
	}
	if g.Holding == sock.Never {
		g.Holding = got
	}
	if r.For == 0 || sent.Sub(g.Holding) >= r.For {
		g.Firing, g.Ended, g.Peak = got, sock.Never, m.Count
		g.Acts.begin(r.Cooldown, got)
	}
}

// revalidate finds out whether a stale group fires.
func (g *Group) revalidate(r *rules.Rule, holds bool, sent, got sock.Instant) {
	switch {
	case !g.stale:
	case g.growing != nil && got.Sub(g.growing.blind) < growthOver:
		// What an earlier run saw grow shows nothing of what does now.
	case !holds:
		g.shownAgain = sock.Never
	case g.shownAgain == sock.Never && r.For > 0:
		g.shownAgain = got
	case r.For == 0 || sent.Sub(g.shownAgain) >= r.For:
		g.stale = false
	}
}

// end has the group cease to fire.
func (g *Group) end(now sock.Instant) {
	g.Firing, g.Holding, g.Ended, g.stale = sock.Never, sock.Never, now, false
}

// Sent reports whether an alert is sent about the group by itself.
func (g *Group) Sent() bool {
	return slices.ContainsFunc(g.Alerts, func(a Alert) bool { return a.Sent })
}

// due is when the group fires if its condition still holds then.
func (g *Group) due(r *rules.Rule) sock.Instant {
	if g.Phase() != Pending {
		return sock.Never
	}
	return g.Holding.Add(r.For)
}
