package engine

import (
	"cmp"
	"slices"

	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/engine/table"
)

// ProcessSockets is how many sockets of a rule processes of one name hold.
type ProcessSockets struct {
	Process string // a name as it groups sockets, or one of those below
	Sockets int
}

// Names of ProcessSockets that are of no process.
const (
	noProcess      = "none"    // nobody holds them, or the kernel itself does
	otherProcesses = "other"   // the rest of those that are known
	unknownProcess = "unknown" // nobody has looked, or nobody can tell
)

// mostProcesses is how many processes of a rule are named: a process may give itself any
// name, and each is a time series where metrics are kept.
const mostProcesses = 10

// processCount counts sockets by the name of the first process that holds each, as far as
// that is known without a walk for it.
type processCount struct {
	byName map[string]*int
	last   *subject.Holders // whose sockets often follow each other
	n      *int             // their count
}

// add counts a socket of these holders, which may not be known.
func (c *processCount) add(h *subject.Holders) {
	if h == nil {
		return
	}
	if h != c.last {
		c.last, c.n = h, c.of(h)
	}
	if c.n != nil {
		*c.n++
	}
}

// of returns the count for these holders; nil: they are not known.
func (c *processCount) of(h *subject.Holders) *int {
	name := noProcess
	if first, ok := h.First(); ok {
		name = subject.PlainName(first.Comm)
	} else if !h.Complete {
		return nil
	}
	n := c.byName[name]
	if n == nil {
		if c.byName == nil {
			c.byName = make(map[string]*int)
		}
		n = new(int)
		c.byName[name] = n
	}
	return n
}

// most returns those that hold the most of so many sockets, the largest first, and then the
// others and those of which it is not known.
func (c *processCount) most(sockets int) []ProcessSockets {
	if sockets == 0 {
		return nil
	}
	var named []ProcessSockets
	other, left := 0, sockets
	for name, n := range c.byName {
		switch name {
		case otherProcesses:
			other += *n
		case "", unknownProcess: // such a name tells nothing
		default:
			named = append(named, ProcessSockets{name, *n})
		}
	}
	slices.SortFunc(named, func(a, b ProcessSockets) int {
		return cmp.Or(b.Sockets-a.Sockets, cmp.Compare(a.Process, b.Process))
	})
	if len(named) > mostProcesses {
		for _, p := range named[mostProcesses:] {
			other += p.Sockets
		}
		named = named[:mostProcesses]
	}
	var all []ProcessSockets
	show := func(p ProcessSockets) { // a counter may have told since that some are gone
		if p.Sockets = min(p.Sockets, left); p.Sockets > 0 {
			all = append(all, p)
			left -= p.Sockets
		}
	}
	for _, p := range named {
		show(p)
	}
	show(ProcessSockets{otherProcesses, other})
	show(ProcessSockets{unknownProcess, left})
	return all
}

// heldTracks are who holds tracked sockets, as far as it is known, where no rule asks: only
// some were looked for, to name them in the log. Nil: of none it is known.
func (e *Engine) heldTracks() *table.Cookies[*subject.Holders] {
	n := 0
	for t := range e.tracks.all() {
		if t.holders != nil {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	held := table.NewCookies[*subject.Holders](n)
	for t := range e.tracks.all() {
		if t.holders != nil {
			held.Put(t.Cookie, t.holders)
		}
	}
	return held
}

// holdersOf returns who holds a socket, as far as it was known when the scan began.
func (l *Scan) holdersOf(s *subject.Subject) *subject.Holders {
	switch {
	case s.Inode == 0:
		return nobody
	case s.Holders != nil || l.held == nil:
		return s.Holders
	}
	if at, ok := l.held.Slot(s.ID.Cookie); ok {
		return l.held.Value(at)
	}
	return nil
}
