package runner

import (
	"fmt"
	"iter"
	"time"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/spin"
	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// KernelTable is the table of sockets of a simulated kernel.
type KernelTable struct {
	Kernel     *sim.Kernel
	Processes  map[int]sock.Holder      // by PID
	FDUsage    map[spin.Process]float64 // in percent; of one that is absent it is not known
	Incomplete bool                     // some process cannot be read
	Pressure   func(now sock.Instant) sock.Pressure
	Ports      map[uint32]sock.Ports // of each network namespace, by its inode; nil: not known
}

// Tick is what the times that the kernel tells are rounded to, and so the precision of the
// source: no more than an age in milliseconds keeps.
const Tick = time.Millisecond

// Next is when something is to happen.
func (t *KernelTable) Next() sock.Instant { return t.Kernel.Next() }

// Advance lets it happen.
func (t *KernelTable) Advance(now sock.Instant) {
	for t.Kernel.Next() <= now {
		t.Kernel.Happen()
	}
	t.Kernel.Now = max(t.Kernel.Now, now)
}

// Answers come at once.
func (t *KernelTable) Answers() sock.Instant { return t.Kernel.Now }

// Sockets are shown in the order of the hash table.
func (t *KernelTable) Sockets(q *sock.Query) iter.Seq[*sock.Socket] {
	return func(yield func(*sock.Socket) bool) {
		var shown sock.Socket // one for all: there may be many
		for _, cookie := range t.Kernel.Table {
			s := t.Kernel.Sockets[cookie]
			if s == nil || !q.States.Has(s.State) {
				continue
			}
			if shown = s.Scan(q, t.Kernel.Now, Tick); !yield(&shown) {
				return
			}
		}
	}
}

// Socket is what the kernel shows of one.
func (t *KernelTable) Socket(id sock.ID) (shown sock.Socket, ok bool) {
	s := t.Kernel.Sockets[id.Cookie]
	if s == nil {
		return shown, false
	}
	return s.Report(t.Kernel.Now, Tick), true
}

// Counters are those of the kernel.
func (t *KernelTable) Counters(pressure bool) engine.CountersRead {
	in := engine.CountersRead{
		OK: true, Counters: sock.Counters{InSegs: t.Kernel.InSegs, HasInSegs: true, TimeWait: t.Kernel.TimeWaits(), HasTimeWait: true}, Ports: t.Ports,
	}
	if pressure && t.Pressure != nil {
		p := t.Pressure(t.Kernel.Now)
		in.Pressure = &p
	}
	return in
}

// Holders are the processes of which sockets with the inodes are.
func (t *KernelTable) Holders(inodes []uint32) engine.HoldersFound {
	wanted := make(map[uint32]bool, len(inodes))
	for _, inode := range inodes {
		wanted[inode] = true
	}
	in := engine.HoldersFound{Holders: make(map[uint32][]sock.Holder), Complete: !t.Incomplete, FDUsage: t.FDUsage}
	for _, s := range t.Kernel.Sockets {
		if s.Inode == 0 || s.ByKernel || !wanted[s.Inode] {
			continue
		}
		for _, pid := range s.HeldAt(t.Kernel.Now) {
			in.Holders[s.Inode] = append(in.Holders[s.Inode], t.Processes[pid])
		}
	}
	return in
}

// Do destroys a socket, has its program end its side, or turns its keepalives on.
func (t *KernelTable) Do(a *engine.Action) error {
	s := t.Kernel.Sockets[a.Socket.ID.Cookie]
	switch {
	case s == nil:
		return sock.ErrGone
	case a.Kind == rules.Kill:
		t.Kernel.Remove(s)
		return nil
	case a.Kind == rules.Shutdown:
		t.shutDown(s)
		return nil
	case a.Kind == rules.Keepalive: // which a peer that is there answers
		if s.Keepalive == 0 {
			s.Keepalive, s.Changed = rules.KeepaliveOf(a.Options).Idle, t.Kernel.Now
			t.Kernel.Probe(s)
		}
		return nil
	default:
		return fmt.Errorf("a simulation does not know how to %s", a.Kind)
	}
}

// roundTrip is how long a peer takes that is there.
const roundTrip = time.Millisecond

// shutDown sends a FIN, which the peer acknowledges unless it has left something else
// unacknowledged.
func (t *KernelTable) shutDown(s *sim.Socket) {
	k, dead, then := t.Kernel, s.Queued != sim.Never, func() { t.Kernel.Remove(s) }
	switch s.State {
	case ssfilter.CloseWait:
		k.Enter(s, ssfilter.LastAck)
	case ssfilter.Established, ssfilter.SynRecv:
		k.Enter(s, ssfilter.FinWait1)
		then = func() {
			s.Queued = sim.Never
			k.Enter(s, ssfilter.FinWait2)
		}
	default:
		return // it was sent before
	}
	s.Queued = k.Now
	if !dead {
		k.After(s, roundTrip, then)
	}
}
