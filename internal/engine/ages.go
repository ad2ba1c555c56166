package engine

import "github.com/sockdog/sockdog/internal/sock"

// Ages returns what observation knows, beyond what the kernel tells, of so
// many sockets at most, and of how many more there would be something to tell. First
// come those that were seen in an accept queue: the kernel takes these for older than
// they are, and all others for younger.
func (e *Engine) Ages(most int) (memories []sock.Memory, left int) {
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
	return memories, left
}
