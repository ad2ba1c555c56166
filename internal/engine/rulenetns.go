package engine

import (
	"cmp"
	"slices"

	"github.com/sockdog/sockdog/internal/sock"
)

// NetnsSockets is how many sockets of a rule are in one network namespace.
type NetnsSockets struct {
	Netns   uint32 // its inode; 0: the rest of them
	Name    string // that ip-netns(8) has for it; empty: none is known
	Sockets int
}

// mostNetns is how many network namespaces of a rule are named: a node may have thousands,
// and each is a time series where metrics are kept.
const mostNetns = 10

// netnsCount counts sockets by the network namespace that they are in.
type netnsCount struct {
	byInode map[uint32]*NetnsSockets
	last    *NetnsSockets // whose sockets follow each other
}

// add counts a socket.
func (c *netnsCount) add(s *sock.Socket) {
	if c.last == nil || c.last.Netns != s.ID.Netns {
		c.last = c.byInode[s.ID.Netns]
	}
	if c.last == nil {
		if c.byInode == nil {
			c.byInode = make(map[uint32]*NetnsSockets)
		}
		c.last = &NetnsSockets{Netns: s.ID.Netns, Name: s.NetnsName()}
		c.byInode[s.ID.Netns] = c.last
	}
	c.last.Sockets++
}

// most returns those with the most sockets, the largest first, and then the rest.
func (c *netnsCount) most() []NetnsSockets {
	var all []NetnsSockets
	for _, n := range c.byInode {
		all = append(all, *n)
	}
	slices.SortFunc(all, func(a, b NetnsSockets) int { return cmp.Or(b.Sockets-a.Sockets, cmp.Compare(a.Netns, b.Netns)) })
	if len(all) <= mostNetns {
		return all
	}
	rest := NetnsSockets{}
	for _, n := range all[mostNetns:] {
		rest.Sockets += n.Sockets
	}
	return append(all[:mostNetns], rest)
}
