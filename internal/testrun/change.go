package testrun

import (
	"time"

	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ruletest"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// change has happen what the test says.
func (w *world) change(c *ruletest.Change) {
	if c.Every > 0 {
		w.At(w.Now.Add(c.Every), func() { w.change(c) })
	}
	if c.Socket < 0 {
		w.pressure.set(c, w.Now)
		return
	}
	for _, s := range w.sockets[c.Socket] {
		if w.Sockets[s.ID.Cookie] == s && !s.Mini { // else it was killed, or its program has closed it
			w.changeSocket(s, c, &w.test.Sockets[c.Socket])
		}
	}
}

func (w *world) changeSocket(s *sim.Socket, c *ruletest.Change, d *ruletest.Socket) {
	if c.Accepted {
		s.Inode, s.UID, s.Accepted, s.Changed = inodeOf(s), d.User, w.Now, w.Now
		s.Held = []sim.Holding{{Since: w.Now, By: []int{w.pid(d)}}}
	}
	switch {
	case c.Closed:
		w.InSegs++
		w.Remove(s)
		return
	case c.State == ssfilter.TimeWait, c.State == ssfilter.FinWait2 && s.Inode == 0:
		w.TimeWait(s, c.State, sock.TimeWaitLen)
		return
	case c.State != 0:
		w.Enter(s, c.State)
		w.afterEntry(s)
	}
	if c.Sent+c.Received > 0 {
		w.Advance(s, uint64(c.Sent), uint64(c.Received))
	}
	switch q := c.Queued; {
	case q == nil:
	case *q == 0 && s.Queued != sim.Never:
		w.Advance(s, uint64(s.WQueue)+1, 0)
		s.Queued = sim.Never
	case *q > 0:
		if s.Queued == sim.Never {
			s.Queued, s.Changed = w.Now, w.Now
		}
		s.WQueue = *q
	}
	if c.Unread != nil {
		s.RQueue, s.Changed = *c.Unread, w.Now
		w.InSegs++
	}
	if c.AcceptQueue != nil {
		s.RQueue, s.Changed = *c.AcceptQueue, w.Now
		w.InSegs++
	}
}

// afterEntry has queued what is in the state that the socket has entered.
func (w *world) afterEntry(s *sim.Socket) {
	switch {
	case finQueued.Has(s.State):
		s.Queued = w.Now
	case s.State == ssfilter.FinWait2, s.State == ssfilter.Established:
		s.Queued = sim.Never
	}
}

// inodeOf is the inode of the descriptor that a program gets for the socket.
func inodeOf(s *sim.Socket) uint32 { return 1000 + uint32(s.ID.Cookie) }

// pressure is what the host is short of.
type pressure struct {
	drops           map[uint32]float64 // so far, by network namespace
	perMinute       float64
	at              sock.Instant // drops are counted up to then
	orphans, memory float64
}

// count counts what was dropped up to now.
func (p *pressure) count(now sock.Instant) {
	for netns := range p.drops {
		p.drops[netns] += p.perMinute * float64(now.Sub(p.at)) / float64(time.Minute)
	}
	p.at = now
}

func (p *pressure) set(c *ruletest.Change, now sock.Instant) {
	p.count(now)
	if c.ListenDrops != nil {
		p.perMinute = *c.ListenDrops
	}
	if c.Orphans != nil {
		p.orphans = *c.Orphans
	}
	if c.TCPMemory != nil {
		p.memory = *c.TCPMemory
	}
}

// read is what the kernel tells of it.
func (p *pressure) read(now sock.Instant) sock.Pressure {
	p.count(now)
	drops := make(map[uint32]uint64, len(p.drops))
	for netns, n := range p.drops {
		drops[netns] = uint64(n)
	}
	return sock.Pressure{ListenDrops: drops, HasOrphans: true, HasMemory: true, Orphans: p.orphans, Memory: p.memory}
}
