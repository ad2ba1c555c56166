package why

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Owners of what no process that is known holds.
const (
	ownerUnseen = "unseen"
	ownerKernel = "kernel" // its program has closed it
	ownerNone   = "none"   // every process can be read, and none holds it
)

// identity is one life of a process.
func identity(h sock.Holder) string { return fmt.Sprintf("%d/%d", h.PID, h.Start) }

// collector makes findings of one reading.
type collector struct {
	in        *Input
	reading   *Reading
	listeners map[listenerKey][]*sock.Socket
	found     map[Key]*Finding
	peers     map[*Finding]map[netip.Addr]bool
	names     map[uint32]string // of network namespaces
	moved     map[sock.Key]bool // connections on which something was acknowledged during the watch
}

// listenerKey is where listening sockets are looked up.
type listenerKey struct {
	netns uint32
	port  uint16
}

// collect makes findings of a reading, by what moved during the watch.
func collect(in *Input, reading *Reading, moved map[sock.Key]bool) map[Key]*Finding {
	c := &collector{
		in: in, reading: reading, moved: moved, listeners: make(map[listenerKey][]*sock.Socket),
		names: make(map[uint32]string), found: make(map[Key]*Finding), peers: make(map[*Finding]map[netip.Addr]bool),
	}
	for i := range reading.Listening {
		l := &reading.Listening[i]
		c.names[l.ID.Netns] = l.NetnsName()
		key := listenerKey{l.ID.Netns, l.Src.Port()}
		c.listeners[key] = append(c.listeners[key], l)
	}
	for i := range reading.Sockets {
		s := &reading.Sockets[i]
		c.names[s.ID.Netns] = s.NetnsName()
		if !s.MPTCP || !reading.HasMPTCP {
			c.socket(s, causeOf(s))
		}
	}
	for i := range reading.MPTCP {
		s := &reading.MPTCP[i]
		c.socket(s, causeOfMPTCP(s))
	}
	for i := range reading.Listening {
		c.queue(&reading.Listening[i])
	}
	for _, p := range reading.Processes {
		c.dead(p)
	}
	for f, addresses := range c.peers {
		f.Peers = len(addresses)
	}
	return c.found
}

// listenersOf finds the sockets of which one accepted another, or is to: those that listen on its
// address, or else on any. Several may share a port, each with a queue of its own (SO_REUSEPORT).
func (c *collector) listenersOf(netns uint32, at netip.AddrPort) (found []*sock.Socket) {
	var any []*sock.Socket
	for _, l := range c.listeners[listenerKey{netns, at.Port()}] {
		switch {
		case l.Src.Addr() == at.Addr():
			found = append(found, l)
		case l.Src.Addr().IsUnspecified():
			any = append(any, l)
		}
	}
	if found == nil {
		return any
	}
	return found
}

// acceptors are who could accept what waits for one of these listeners: the kernel does not tell in
// which of several queues a connection is, but those in which there is nothing it is not in.
func (c *collector) acceptors(listeners []*sock.Socket) (all []sock.Holder) {
	waits := func(l *sock.Socket) bool { return l.RQueue > 0 }
	some := slices.ContainsFunc(listeners, waits)
	for _, l := range listeners {
		if some && !waits(l) {
			continue
		}
		for _, h := range c.reading.Holders[l.Inode] {
			if !slices.Contains(all, h) {
				all = append(all, h)
			}
		}
	}
	slices.SortFunc(all, func(a, b sock.Holder) int { return cmp.Compare(a.PID, b.PID) })
	return all
}

// owner names who holds a socket.
func (c *collector) owner(holders []sock.Holder) string {
	switch {
	case len(holders) > 0:
		return ownerOf(holders)
	case c.in.Unseen == "", c.reading.Exact:
		return ownerNone
	default:
		return ownerUnseen
	}
}

// socket counts a socket that is stuck for that cause; nil: it is not.
func (c *collector) socket(s *Socket, why *cause) {
	switch {
	case why == nil:
		return
	case s.State == ssfilter.CloseWait && c.moved[s.ID.Key()]:
		why = stillSending
	}
	listeners := c.listenersOf(s.ID.Netns, s.Src)
	key := Key{Cause: why.Name, Netns: s.ID.Netns, NetnsName: s.NetnsName(), MPTCP: s.MPTCP && why != inBacklog}
	holders, uid := c.reading.Holders[s.Inode], s.UID
	switch {
	case s.InBacklog() && listeners != nil:
		holders, uid = c.acceptors(listeners), listeners[0].UID // which it has not itself yet
	case s.Inode == 0:
		holders = nil
	}
	if key.Owner = c.owner(holders); s.Inode == 0 && !s.InBacklog() {
		key.Owner = ownerKernel
	}
	if key.Server = listeners != nil; key.Server {
		key.Peer, key.Port = fmt.Sprintf("port %d", s.Src.Port()), s.Src.Port()
	} else {
		key.Peer, key.Port, key.Address = s.Zoned(s.Dst).String(), s.Dst.Port(), s.Dst.Addr().WithZone("").String()
	}
	f := c.finding(why, key, holders, uid, s.Cgroup)
	f.add(s)
	if s.InBacklog() && s.State == ssfilter.CloseWait {
		f.Closed++
	}
	if key.Server {
		if c.peers[f] == nil {
			c.peers[f] = make(map[netip.Addr]bool)
		}
		c.peers[f][s.Dst.Addr()] = true
	}
}

// finding returns the finding of that key, made where there was none.
func (c *collector) finding(why *cause, key Key, holders []sock.Holder, uid uint32, cgroup string) *Finding {
	f := c.found[key]
	if f == nil {
		f = &Finding{cause: why, Key: key, Holders: holders, Exact: true, Newest: math.MaxInt64, uid: uid, cgroup: cgroup}
		if len(holders) > 0 {
			f.Process = c.reading.Processes[holders[0].PID]
		}
		c.found[key] = f
	}
	if f.cgroup != cgroup {
		f.cgroup = ""
	}
	return f
}

// add counts one socket of the finding.
func (f *Finding) add(s *Socket) {
	f.Count++
	f.Exact = f.Exact && s.Known && s.Exact
	if s.Known {
		f.Known = true
		f.Oldest, f.Newest = max(f.Oldest, s.InState), min(f.Newest, s.InState)
	}
}

// queue adds how full an accept queue is to the finding about who waits in it, and makes one
// where it is more than half full.
func (c *collector) queue(l *sock.Socket) {
	holders := c.reading.Holders[l.Inode]
	if l.RQueue > 0 {
		holders = c.acceptors(c.listenersOf(l.ID.Netns, l.Src))
	}
	key := Key{
		Cause: inBacklog.Name, Netns: l.ID.Netns, NetnsName: l.NetnsName(),
		Owner: c.owner(holders), Server: true, Peer: fmt.Sprintf("port %d", l.Src.Port()), Port: l.Src.Port(),
	}
	f := c.found[key]
	if f == nil {
		if !c.in.Whole || l.RQueue == 0 || 2*uint64(l.RQueue) < uint64(l.WQueue) {
			return
		}
		f = c.finding(inBacklog, key, holders, l.UID, l.Cgroup)
		f.Count, f.Exact = int(l.RQueue), false
	}
	if f.Queue != nil && f.Queue.Length >= l.RQueue {
		return // several sockets listen on the port
	}
	f.Queue = &Queue{Length: l.RQueue, Limit: l.WQueue, Accepting: c.accepting(f.Holders)}
	if n, known := c.reading.Overflows[l.ID.Netns]; known {
		f.Queue.Overflows = &n
	}
}

// accepting adds up how many threads of processes are in accept; nil: it is not known of each.
func (c *collector) accepting(holders []sock.Holder) *int {
	sum := 0
	for _, h := range holders {
		n := c.reading.Processes[h.PID].Accepting
		if n == nil {
			return nil
		}
		sum += *n
	}
	if len(holders) == 0 {
		return nil
	}
	return &sum
}

// dead makes a finding of a process that holds dead sockets.
func (c *collector) dead(p Process) {
	if p.Dead == 0 {
		return
	}
	holders := []sock.Holder{p.Holder}
	key := Key{Cause: deadSockets.Name, Owner: ownerOf(holders), Netns: p.Netns, NetnsName: c.names[p.Netns]}
	f := c.finding(deadSockets, key, holders, 0, "")
	f.Count, f.Exact, f.Process = p.Dead, false, p
}

// rate says how fast a finding grows: as it was watched or, where nobody watched, as the ages
// of its sockets tell.
func (f *Finding) rate(in *Input, before *Finding) {
	if in.Before != nil && in.Watched > 0 {
		was := 0
		if before != nil {
			was = before.Count
		}
		f.Rate, f.Rated = float64(f.Count-was)/in.Watched.Minutes(), true
		if q := f.Queue; q != nil && q.Overflows != nil {
			if earlier, known := in.Before.Overflows[f.Netns]; known && *q.Overflows >= earlier {
				q.Minute, q.Watched = float64(*q.Overflows-earlier)/in.Watched.Minutes(), true
			}
		}
		return
	}
	const enough = 4 // sockets, for a rate
	between := f.Oldest - f.Newest
	if !f.Known || !f.Exact || f.Count < enough || between < time.Second {
		return
	}
	gap := between / time.Duration(f.Count-1)
	if f.Rated = true; f.Newest <= 3*gap+time.Second { // else it has stopped
		f.Rate = float64(time.Minute) / float64(gap)
	}
}

// shown reports whether a finding is worth telling.
func (f *Finding) shown(in *Input) bool {
	return f.Count >= f.least || in.Before != nil && f.Rate > 0 && f.Count > 1
}

// limits says when processes reach their limits of descriptors.
func limits(in *Input, findings []*Finding) {
	leaks := make(map[int]float64) // descriptors a minute, by PID
	for _, f := range findings {
		if p := f.Process; p.Known && !f.note && f.Rate > 0 && f.Queue == nil {
			leaks[p.Holder.PID] += f.Rate
		}
	}
	for _, f := range findings {
		p := f.Process
		if !p.Known || p.Limit == 0 {
			continue
		}
		rate := leaks[p.Holder.PID]
		if in.Before != nil && in.Watched > 0 {
			was := in.Before.Processes[p.Holder.PID]
			if !was.Known || was.Holder.Start != p.Holder.Start {
				continue
			}
			rate = float64(p.Used-was.Used) / in.Watched.Minutes()
		}
		if left := float64(p.Limit) - float64(p.Used); left > 0 && rate > 0 {
			f.LimitIn = time.Duration(min(left/rate*float64(time.Minute), float64(maxLimitIn)))
		}
	}
}

// maxLimitIn is beyond what nobody wants to know when a limit is reached.
const maxLimitIn = 10 * 365 * 24 * time.Hour

// sortFindings puts leaks first, the largest of them before others.
func sortFindings(findings []*Finding) {
	rank := func(f *Finding) int {
		if f.note {
			return 1
		}
		return 0
	}
	slices.SortFunc(findings, func(a, b *Finding) int {
		return cmp.Or(
			cmp.Compare(rank(a), rank(b)), cmp.Compare(b.Count, a.Count), cmp.Compare(a.Owner, b.Owner), cmp.Compare(a.Peer, b.Peer),
			cmp.Compare(a.Cause, b.Cause), cmp.Compare(a.Netns, b.Netns),
		)
	})
}
