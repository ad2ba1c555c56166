package engine

import (
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sock"
)

// Observed says of a socket that it has been in its state since an instant exactly; where
// a program accepted it later, since that. Whoever sees what happens to sockets knows that,
// and the kernel does not tell it.
type Observed struct {
	sock.Answer // as the socket was when it was seen
	Since       sock.Instant
}

func (in Observed) apply(e *Engine, now sock.Instant) {
	s := &in.Socket
	t := e.tracks.get(s.ID.Key())
	switch {
	case t == nil && e.far.get(s.ID.Key()) == nil && !isWanted(e.program, s):
		return
	case t != nil && (t.phase == acted || e.unconfirmed(t) != nil):
		return // what comes of the act is told by an answer
	}
	t = e.observe(s, in.Sent, in.Got, in.Since, now)
	t.set(seen, e.scans.running != nil)
	e.consider(t, s, now, false)
}

// isWanted reports whether a rule may mean the socket.
func isWanted(p *match.Program, s *sock.Socket) bool {
	for range p.RulesFor(subject.Of(s)) {
		return true
	}
	return false
}
