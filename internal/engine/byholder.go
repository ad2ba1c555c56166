package engine

import (
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/spin"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// allow takes in what is possible here. By that, who holds sockets may be the way to them.
func (e *Engine) allow(capabilities match.Capabilities) {
	e.capabilities = capabilities
	e.reach.needed = slices.ContainsFunc(e.program.Rules, func(r match.Rule) bool {
		return r.Enabled && slices.ContainsFunc(r.Then, func(a rules.Action) bool { return e.byHolder(&a) })
	})
}

// byHolder reports whether the action is done through who holds a socket.
func (e *Engine) byHolder(a *rules.Action) bool {
	via, err := e.capabilities.Way(a)
	return via == rules.ViaHolder && err == nil
}

// holdersDecide reports whether it hangs on who holds a socket what becomes of it.
func (e *Engine) holdersDecide() bool { return e.reach.needed || e.program.HoldersDecide() }

// holdersDecideFor reports whether an action of the rule hangs on that.
func (e *Engine) holdersDecideFor(r *match.Rule, a *rules.Action) bool {
	return e.byHolder(a) || e.program.HoldersDecideFor(r, a)
}

// unreachable says why nothing can be done to the socket through who holds it, or "".
func (e *Engine) unreachable(t *tracked, s *sock.Socket, now sock.Instant) match.Reason {
	switch held := t.heldBy(); {
	case s.Inode == 0:
		return match.NoDescriptor
	case len(held) == 0:
		return match.HoldersUnknown
	case e.reach.refuse(held, now):
		return match.HolderRefuses
	default:
		return ""
	}
}

const (
	// refusedFor is how long nothing is tried on a process after the kernel has refused its
	// descriptors: whoever reads that may grant them.
	refusedFor = 10 * time.Minute
	// maxRefused bounds the memory of that.
	maxRefused = 10_000
)

// reach is what is known of the way to sockets through who holds them.
type reach struct {
	needed bool // a rule in force goes it
	// refused are the processes whose descriptors the kernel has refused, and until when
	// nothing is tried on them.
	refused map[spin.Process]sock.Instant
}

// noteRefused notes that the kernel has refused the descriptors of all of these.
func (r *reach) noteRefused(held []sock.Holder, now sock.Instant) {
	if r.refused == nil || len(r.refused) >= maxRefused {
		r.refused = make(map[spin.Process]sock.Instant)
	}
	for i := range held {
		r.refused[spin.Process{PID: held[i].PID, Start: held[i].Start}] = now.Add(refusedFor)
	}
}

// refuse reports whether it did so of all of these lately.
func (r *reach) refuse(held []sock.Holder, now sock.Instant) bool {
	return !slices.ContainsFunc(held, func(h sock.Holder) bool {
		until, known := r.refused[spin.Process{PID: h.PID, Start: h.Start}]
		return !known || now >= until
	})
}
