package group

import (
	"time"

	"github.com/sockdog/sockdog/internal/sock"
)

// Drops counts what listening sockets drop a minute, by what they have dropped ever.
type Drops struct {
	by map[uint32]*drops // network namespace
}

// drops are those of one network namespace, in a ring over the last minute.
type drops struct {
	ever uint64
	at   sock.Instant // of the last sample
	ring [time.Minute / dropSlot]float64
}

const dropSlot = 5 * time.Second

// Take takes in the counters of all namespaces. Of one that is new, what it has dropped
// before is not known; one that is left out is forgotten.
func (d *Drops) Take(ever map[uint32]uint64, now sock.Instant) {
	by := make(map[uint32]*drops, len(ever))
	for netns, n := range ever {
		of := d.by[netns]
		if of == nil {
			of = &drops{ever: n, at: now}
		}
		of.add(n, now)
		by[netns] = of
	}
	d.by = by
}

// Of returns how many connections a namespace dropped over the last minute, as far as that
// is known: the slot that began before it is left out.
func (d *Drops) Of(netns uint32) (sum float64) {
	if of := d.by[netns]; of != nil {
		for _, n := range of.ring {
			sum += n
		}
	}
	return sum
}

// Sum returns how many all dropped.
func (d *Drops) Sum() (sum float64) {
	for netns := range d.by {
		sum += d.Of(netns)
	}
	return sum
}

func (d *drops) add(ever uint64, now sock.Instant) {
	n := int64(len(d.ring))
	last := int64(now) / int64(dropSlot)
	for s := max(int64(d.at)/int64(dropSlot)+1, last-n+1); s <= last; s++ {
		d.ring[s%n] = 0
	}
	if ever > d.ever { // else it began anew
		came := float64(ever - d.ever)
		if over := now.Sub(d.at); over > time.Minute {
			came *= float64(time.Minute) / float64(over)
		}
		d.ring[last%n] += came
	}
	d.ever, d.at = ever, now
}
