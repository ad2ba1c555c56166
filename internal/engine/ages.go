package engine

import (
	"github.com/sockdog/sockdog/internal/engine/track"
	"github.com/sockdog/sockdog/internal/sock"
)

// Ages returns what observation knows, beyond what the kernel tells, of so
// many sockets at most, and of how many more there would be something to tell. First
// come those that were seen in an accept queue: the kernel takes these for older than
// they are, and all others for younger. Last come those that no rule means and of which
// the source knows the age, which stuck tells of; nil: none does.
func (e *Engine) Ages(most int, stuck Stuck) (memories []sock.Memory, left int) {
	memories = make([]sock.Memory, 0, min(most, e.Watched()))
	for _, queued := range []bool{true, false} {
		for _, x := range []*tracks{&e.tracks, &e.far} {
			for t := range x.all() {
				switch {
				case t.is(plain | copied), (t.Backlog() || t.Accepted()) != queued:
				case len(memories) == most:
					left++
				default:
					c := x.connection(t)
					memories = append(memories, c.Memory())
				}
			}
		}
	}
	if stuck == nil {
		return memories, left
	}
	known := make(map[sock.Key]*sock.Memory, len(memories))
	for i := range memories {
		known[memories[i].Key] = &memories[i]
	}
	stuck(func(s *sock.Socket, got sock.Instant) {
		m := known[s.ID.Key()]
		switch {
		case s.Entered == 0:
		case m != nil:
			// What waited in an accept queue counts from then on.
			m.Exact = m.Entered == s.Entered && m.State == s.State && m.ID == s.ID.Sum()
		case len(memories) == most:
			left++
		default:
			c := track.Begin(s, track.TimesOf(s, got, got, e.config.Precision), got)
			told := c.Memory()
			told.Exact = true
			if got == s.Entered { // and nobody has asked since whether it waits in an accept queue
				told.Backlog = false
			}
			memories = append(memories, told)
		}
	})
	return memories, left
}

// Stuck calls each for the sockets that a source saw enter their states, as they were at
// the instant got: that of the entry, where only that is known of them.
type Stuck func(each func(s *sock.Socket, got sock.Instant))
