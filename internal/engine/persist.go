package engine

import (
	"time"

	"github.com/sockdog/sockdog/internal/engine/track"
	"github.com/sockdog/sockdog/internal/sock"
)

const (
	// storedWithin is how far what is on disk of a socket may be off.
	storedWithin = 500 * time.Millisecond
	// mostMoved is how many sockets that made progress since they were seen last are
	// written to disk within movedEvery. There may be a hundred thousand, and of each
	// no more is lost than has been quiet since: it is written when it is seen again
	// and has not moved, or when the daemon stops.
	mostMoved = 1000
	// mostWritten is how many others are: a hundred thousand at once would take more
	// memory than to know them.
	mostWritten = 20_000
	movedEvery  = 2 * time.Second
)

// disk is what was written, and what is to be.
type disk struct {
	moved, written ration       // of sockets: that made progress, and others
	groupsChanged  bool         // there is something new to be kept of the groups
	groupsAt       sock.Instant // when to say anew what there is
	stopsChanged   bool         // a rule has stopped itself, or goes on
}

// near reports whether what is known of a connection by a and by b differs by no more
// than what is on disk may be off.
func near(a, b *track.Connection) bool {
	close := func(a, b sock.Instant) bool { return max(a.Sub(b), b.Sub(a)) <= storedWithin }
	return a.Backlog == b.Backlog && a.Accepted == b.Accepted && close(a.Entered.Safe, b.Entered.Safe) && close(a.Quiet.Safe, b.Quiet.Safe) &&
		(a.Queued == b.Queued || a.Queued != never && b.Queued != never && close(a.Queued, b.Queued))
}

// persist has what is known of t kept on disk, unless it is plain: then the next
// run will learn it from the kernel. What the kernel knows of the others by now
// may be gone by then, so they are kept from the first answer on. Before is what was
// known before the answer; moved says that it made progress since.
func (e *Engine) persist(t *tracked, c, before *track.Connection, moved bool, now sock.Instant) {
	t.set(behind, !t.is(stored) || t.is(behind) || moved || !near(c, before))
	if t.is(plain) || !t.is(behind) || moved && !e.disk.moved.take(now, mostMoved) || !moved && !e.disk.written.take(now, mostWritten) {
		return
	}
	e.store(t, c)
}

func (e *Engine) store(t *tracked, c *track.Connection) {
	t.set(stored, true)
	t.set(behind, false)
	e.plan.Remember = append(e.plan.Remember, c.Memory())
}

// persistAll has everything kept on disk that is not there yet.
func (e *Engine) persistAll() {
	for _, x := range []*tracks{&e.tracks, &e.far} {
		for t := range x.all() {
			if t.is(behind) && !t.is(plain) {
				c := x.connection(t)
				e.plan.Remember = append(e.plan.Remember, c.Memory())
			}
		}
	}
}

// ration bounds how much there may be of something within a time.
type ration struct {
	until sock.Instant
	taken int
}

// take reports whether there may be one more, of so many.
func (r *ration) take(now sock.Instant, most int) bool {
	if now >= r.until {
		*r = ration{until: now.Add(movedEvery)}
	}
	r.taken++
	return r.taken <= most
}
