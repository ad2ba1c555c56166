package engine

import "github.com/sockdog/sockdog/internal/sock"

// Observed returns what observation knows, beyond what the kernel tells, of so
// many sockets at most, and of how many more there would be something to tell. First
// come those that were seen in an accept queue: the kernel takes these for older than
// they are, and all others for younger.
func (e *Engine) Observed(most int) (memories []sock.Memory, left int) {
	memories = make([]sock.Memory, 0, min(most, len(e.tracks)))
	for _, queued := range []bool{true, false} {
		for _, t := range e.tracks {
			switch {
			case t.plain, (t.accepted != bound{}) != queued:
			case len(memories) == most:
				left++
			default:
				memories = append(memories, t.observed())
			}
		}
	}
	return memories, left
}

// observed returns what is known of the connection.
func (t *track) observed() sock.Memory {
	m := sock.Memory{
		Cookie: t.id.Cookie, ID: t.id.Sum(), State: t.state,
		Entered: t.entered.safe, Quiet: t.quiet.safe,
		Acked: t.acked, Received: t.received, SegsIn: t.segsIn,
		Backlog: t.backlog, Accepted: t.accepted.safe != 0,
	}
	if t.queued != never {
		m.Queued = t.queued
	}
	return m
}
