package track

import (
	"time"

	"github.com/sockdog/sockdog/internal/sock"
)

// Delta is what a further answer says of a Packed that is not in use: what it adds in
// time, and what it counted.
type Delta struct {
	entered, quiet           sock.Instant
	acked, received          uint64
	SegsIn, heard            uint32
	earlyEntered, earlyQuiet uint16
}

// Delta returns what p becomes q by, or false where that takes more.
func (p *Packed) Delta(q *Packed) (d Delta, ok bool) {
	d = Delta{q.entered, q.quiet, q.acked, q.received, q.segsIn, q.heard, q.earlyEntered, q.earlyQuiet}
	was := *p
	was.Apply(&d)
	was.Print = q.Print
	return d, was == *q
}

// OnlySegments reports whether d differs from was in the segments that came in alone,
// which the answer to a keepalive probe is, or in times that are earlier by no more
// than within.
func (d Delta) OnlySegments(was Delta, within time.Duration) bool {
	near := func(was, is sock.Instant) bool { return is <= was && was.Sub(is) <= within }
	return d.acked == was.acked && d.received == was.received && near(was.entered, d.entered) && near(was.quiet, d.quiet) && near(was.heardSafe(), d.heardSafe())
}

func (d *Delta) heardSafe() sock.Instant { return heardSafe(d.entered, d.quiet, d.heard) }

// Apply makes of p what a Delta was taken from.
func (p *Packed) Apply(d *Delta) {
	p.entered, p.quiet, p.acked, p.received = d.entered, d.quiet, d.acked, d.received
	p.segsIn, p.heard, p.earlyEntered, p.earlyQuiet = d.SegsIn, d.heard, d.earlyEntered, d.earlyQuiet
}
