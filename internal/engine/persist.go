package engine

import (
	"time"

	"github.com/sockdog/sockdog/internal/sock"
)

const (
	// storedWithin is how far what is on disk of a socket may be off.
	storedWithin = 500 * time.Millisecond
	// mostMoved is how many sockets that made progress since they were seen last are
	// written to disk within movedEvery. There may be a hundred thousand, and of each
	// no more is lost than has been quiet since: it is written when it is seen again
	// and has not moved, or when the daemon stops.
	mostMoved  = 1000
	movedEvery = 2 * time.Second
)

// stored is what is on disk of a connection.
type stored struct {
	any, backlog, accepted bool
	entered, quiet, queued sock.Instant
}

func storedOf(m *sock.Memory) stored {
	return stored{true, m.Backlog, m.Accepted, m.Entered, m.Quiet, m.Queued}
}

// has reports whether that is as good as m.
func (s *stored) has(m *sock.Memory) bool {
	near := func(a, b sock.Instant) bool { return max(a.Sub(b), b.Sub(a)) <= storedWithin }
	return s.any && s.backlog == m.Backlog && s.accepted == m.Accepted && near(s.entered, m.Entered) && near(s.quiet, m.Quiet) && near(s.queued, m.Queued)
}

// persist has what is known of t kept on disk, unless it is plain: then the next
// run will learn it from the kernel. What the kernel knows of the others by now
// may be gone by then, so they are kept from the first answer on. moved says that
// they made progress since the last one.
func (e *Engine) persist(t *tracked, moved bool) {
	m := t.Memory()
	t.behind = !t.plain && !t.stored.has(&m)
	if !t.behind || moved && !e.moved.take(t.got) {
		return
	}
	e.store(t, m)
}

func (e *Engine) store(t *tracked, m sock.Memory) {
	t.stored, t.behind = storedOf(&m), false
	e.plan.Remember = append(e.plan.Remember, m)
}

// persistAll has everything kept on disk that is not there yet.
func (e *Engine) persistAll() {
	for _, t := range e.tracks {
		if t.behind {
			e.store(t, t.Memory())
		}
	}
}

// ration bounds how much there may be of something within a time.
type ration struct {
	until sock.Instant
	taken int
}

// take reports whether there may be one more of what moves.
func (r *ration) take(now sock.Instant) bool {
	if now >= r.until {
		*r = ration{until: now.Add(movedEvery)}
	}
	r.taken++
	return r.taken <= mostMoved
}
