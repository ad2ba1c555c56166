package group

import (
	"math"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
)

const (
	// growthOver is how long growth is counted over, in slots of growthSlot.
	growthOver = 5 * time.Minute
	growthSlot = 30 * time.Second
)

// growth counts in a ring how many sockets were seen for the first time. Of its
// oldest slot counts only the part that lies within growthOver: were it dropped as a
// whole, what grows at an even pace would seem to slow down every growthSlot.
type growth struct {
	fresh   [growthOver/growthSlot + 1]float32
	at      sock.Instant // of the last sample
	blindly sock.Instant // nobody watched from then
	blind   sock.Instant // until then
}

// leastCounted is how long must have been watched for what was counted to be
// spread over no more than that.
const leastCounted = time.Minute

// miss notes that nobody watched since the last sample: what began then is not
// known, and is not none.
func (g *growth) miss(now sock.Instant) { g.blindly, g.blind, g.at = g.at, now, now }

// add takes in how many came since the last sample, and returns how many that
// makes a minute.
func (g *growth) add(fresh uint32, now sock.Instant) float64 {
	n := int64(len(g.fresh))
	first, last := int64(g.at)/int64(growthSlot), int64(now)/int64(growthSlot)
	for s := max(first+1, last-n+1); s <= last; s++ {
		g.fresh[s%n] = 0
	}
	// They came at any time since the sample before.
	for s := max(first, last-n+1); s <= last && fresh > 0; s++ {
		begin, end := sock.Instant(s*int64(growthSlot)), sock.Instant((s+1)*int64(growthSlot))
		part := float64(1)
		if now > g.at {
			part = float64(min(end, now).Sub(max(begin, g.at))) / float64(now.Sub(g.at))
		}
		g.fresh[s%n] += float32(part * float64(fresh))
	}
	g.at = now
	sum := float64(0)
	for _, f := range g.fresh {
		sum += float64(f)
	}
	into := now.Sub(sock.Instant(last * int64(growthSlot)))
	sum -= float64(g.fresh[(last+1)%n]) * float64(into) / float64(growthSlot)
	unknown := g.blind.Sub(max(g.blindly, now.Add(-growthOver)))
	return sum / max(leastCounted, growthOver-max(0, unknown)).Minutes()
}

// grown is the growth of a group of which so many sockets were seen for the first
// time in the growthOver before the instant.
func grown(fresh uint64, before sock.Instant) *growth {
	g := &growth{at: max(0, before.Add(-growthOver))}
	g.add(uint32(min(fresh, math.MaxUint32)), before)
	return g
}
