// Package inspect reads from a host what package why explains: sockets, who holds them, the
// descriptors of those processes, and sockets that only descriptors tell of.
package inspect

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/sockdog/sockdog/internal/counters"
	"github.com/sockdog/sockdog/internal/engine/track"
	"github.com/sockdog/sockdog/internal/holders"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/term"
	"github.com/sockdog/sockdog/internal/why"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Inspector reads.
type Inspector struct {
	Scanner
	Query     sock.Query // the sockets in question
	Whole     bool       // which are all
	Memories  map[sock.Key]*sock.Memory
	Now       func() sock.Instant
	Precision time.Duration
	ProcRoot  string
	Pass      holders.Pass // for what /proc leaves open; nil: there is none
}

// Scanner reads the tables of the kernel.
type Scanner interface {
	Scan(q sock.Query, each func(s *sock.Socket, got sock.Instant)) error
	// ScanMPTCP scans for connections of Multipath TCP; known is false where that cannot be.
	ScanMPTCP(q sock.Query, each func(s *sock.Socket, got sock.Instant)) (known bool, err error)
	// Reads reports whether the last scan has read a network namespace.
	Reads(netns uint32) bool
}

// Seen is a reading, and what could not be read.
type Seen struct {
	why.Reading
	Unseen, Cure string
	Left         []string

	meant map[int]bool // by PID: it holds one of the sockets in question
}

// settle is how long a socket that no table has is given to become one that a table has: its
// program may be about to connect it.
const settle = 250 * time.Millisecond

// Read reads once.
func (x *Inspector) Read(ctx context.Context) (*Seen, error) {
	seen := &Seen{meant: make(map[int]bool), Reading: why.Reading{Processes: make(map[int]why.Process), Overflows: make(map[uint32]uint64)}}
	sent := x.Now()
	err := x.Scan(x.Query, func(s *sock.Socket, got sock.Instant) {
		seen.Sockets = append(seen.Sockets, why.Socket{Socket: *s, Age: track.AgeOf(s, x.Memories[s.ID.Key()], sent, got, x.Precision)})
	})
	if err != nil {
		return nil, err
	}
	seen.HasMPTCP, err = x.ScanMPTCP(x.Query, func(s *sock.Socket, _ sock.Instant) {
		seen.MPTCP = append(seen.MPTCP, why.Socket{Socket: *s})
	})
	if err != nil {
		return nil, err
	}
	tabled, err := x.tabled(&seen.Listening)
	if err != nil {
		return nil, err
	}
	x.findHolders(seen)
	if err := x.findDead(ctx, seen, tabled); err != nil {
		return nil, err
	}
	x.readProcesses(seen)
	return seen, nil
}

// tabled reads the inodes of all sockets that have one, and those that listen.
func (x *Inspector) tabled(listening *[]sock.Socket) (map[uint32]struct{}, error) {
	inodes := make(map[uint32]struct{})
	all := sock.Query{States: ssfilter.AllStates&^ssfilter.Of(ssfilter.TimeWait) | ssfilter.Of(ssfilter.BoundInactive), Known: sock.Now}
	err := x.Scan(all, func(s *sock.Socket, _ sock.Instant) {
		inodes[s.Inode] = struct{}{}
		if s.State == ssfilter.Listening && listening != nil {
			*listening = append(*listening, *s)
		}
	})
	if err == nil {
		_, err = x.ScanMPTCP(all, func(s *sock.Socket, _ sock.Instant) { inodes[s.Inode] = struct{}{} })
	}
	return inodes, err
}

// findHolders walks through /proc.
func (x *Inspector) findHolders(seen *Seen) {
	wanted := make(map[uint32]struct{})
	for _, sockets := range [][]why.Socket{seen.Sockets, seen.MPTCP} {
		for i := range sockets {
			wanted[sockets[i].Inode] = struct{}{}
		}
	}
	for i := range seen.Listening {
		wanted[seen.Listening[i].Inode] = struct{}{}
	}
	delete(wanted, 0)
	found, hung, err := holders.FindSkipping(x.ProcRoot, wanted, holders.PerProcess)
	switch {
	case err != nil:
		seen.Unseen, seen.Cure = err.Error(), "sockdog doctor says what is missing"
	case !found.Access.Complete():
		seen.Unseen, seen.Cure = found.Access.Unnamed(term.Printable)
	}
	if (err != nil || !found.Complete) && x.Pass != nil && len(wanted) > 0 {
		if exact, err := holders.FindByPass(x.ProcRoot, x.Pass, wanted); err == nil {
			found, hung, seen.Exact = exact, nil, true
		}
	}
	x.left(seen, hung, "what is held")
	seen.Holders, seen.Settled = found.Holders, found.Settled
	for _, held := range seen.Holders {
		for _, h := range held {
			seen.Processes[h.PID] = why.Process{Holder: h}
		}
	}
	for _, s := range slices.Concat(seen.Sockets, seen.MPTCP) {
		for _, h := range seen.Holders[s.Inode] {
			seen.meant[h.PID] = true
		}
	}
}

// findDead finds sockets that no table has, twice: what is on its way to become connected is
// there the second time.
func (x *Inspector) findDead(ctx context.Context, seen *Seen, tabled map[uint32]struct{}) error {
	dead, hung, err := holders.FindDead(x.ProcRoot, tabled)
	if err != nil {
		return err
	}
	first := make(map[int]map[uint32]bool)
	var pids []int
	for _, d := range dead {
		if !x.Reads(d.Netns) {
			continue
		}
		pids = append(pids, d.PID)
		first[d.PID] = make(map[uint32]bool)
		for _, inode := range d.Inodes {
			first[d.PID][inode] = true
		}
	}
	if len(pids) > 0 {
		select {
		case <-time.After(settle):
		case <-ctx.Done():
			return ctx.Err()
		}
		if tabled, err = x.tabled(nil); err != nil {
			return err
		}
		var again []int
		dead, again = holders.FindDeadOf(x.ProcRoot, pids, tabled)
		hung = append(hung, again...)
		for _, d := range dead {
			if x.Reads(d.Netns) {
				x.addDead(seen, &d, first[d.PID])
			}
		}
	}
	x.left(seen, hung, "dead sockets")
	return nil
}

// left says which processes were left out, and what is therefore not known.
func (x *Inspector) left(seen *Seen, hung []int, what string) {
	switch len(hung) {
	case 0:
	case 1:
		seen.Left = append(seen.Left, fmt.Sprintf("Process %d hung when it was read, as on a stuck mount: %s cannot be known.", hung[0], what))
	default:
		seen.Left = append(seen.Left, fmt.Sprintf("%d processes hung when they were read, as on a stuck mount, the first is %d: %s cannot be known.", len(hung), hung[0], what))
	}
}

// addDead adds those dead sockets of a process that were dead before.
func (x *Inspector) addDead(seen *Seen, d *holders.Dead, before map[uint32]bool) {
	p, known := seen.Processes[d.PID]
	if !x.Whole && !seen.meant[d.PID] || known && p.Holder.Start != d.Start {
		return // it holds none of the sockets in question
	}
	if !known {
		p.Holder = d.Holder
	}
	p.Netns = d.Netns
	for _, inode := range d.Inodes {
		if before[inode] {
			p.Dead++
		}
	}
	seen.Processes[d.PID] = p
}

// readProcesses reads more of those that hold something, and of those that listen. What
// cannot be read is not known.
func (x *Inspector) readProcesses(seen *Seen) {
	for pid, p := range seen.Processes {
		if d, err := holders.ReadDescriptorsOf(x.ProcRoot, p.Holder); err == nil {
			p.Known, p.Used, p.Limit = true, d.Used, d.Limit
		}
		seen.Processes[pid] = p
	}
	for i := range seen.Listening {
		l := &seen.Listening[i]
		held := seen.Holders[l.Inode]
		if len(held) == 0 {
			continue
		}
		if _, known := seen.Overflows[l.ID.Netns]; !known {
			if n, err := counters.ReadOverflows(filepath.Join(x.ProcRoot, strconv.Itoa(held[0].PID), "net")); err == nil {
				seen.Overflows[l.ID.Netns] = n
			}
		}
		if l.RQueue > 0 {
			x.readAccepting(seen, held)
		}
	}
}

// mostAcceptors is of how many processes that share a listening socket it is read what they wait for.
const mostAcceptors = 64

// readAccepting reads how many threads of each process wait in accept(2): one that has made the socket
// may leave that to its children.
func (x *Inspector) readAccepting(seen *Seen, held []sock.Holder) {
	for _, h := range held[:min(len(held), mostAcceptors)] {
		p := seen.Processes[h.PID]
		if p.Accepting != nil {
			continue
		}
		if n, err := holders.ReadAccepting(x.ProcRoot, h); err == nil {
			p.Accepting = &n
			seen.Processes[h.PID] = p
		}
	}
}
