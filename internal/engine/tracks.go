package engine

import (
	"iter"
	"slices"

	"github.com/sockdog/sockdog/internal/engine/table"
	"github.com/sockdog/sockdog/internal/engine/track"
	"github.com/sockdog/sockdog/internal/sock"
)

// tracks are the connections that are kept in mind, by key: a hash table with open
// addressing, of the numbers of places in chunks. A map of pointers would take twice
// the memory.
type tracks struct {
	slots  []uint32 // number+1; 0: empty. A power of two, at most four fifths of them in use
	chunks []trackChunk
	roomy  []uint32 // chunks with room
	// spare is the last chunk that was emptied, for the next that is needed: many
	// connections are added only to be removed at once.
	spare  trackChunk
	n      int
	scopes []scope // of the connections, which have the number of theirs
}

// trackChunk has room for chunkSize connections.
type trackChunk struct {
	tracks *[chunkSize]tracked // nil: none of it is in use
	used   int                 // how many are
	free   int                 // the first that is not, counted from one; the next is in its due
}

// scope is a device of a network namespace that sockets are bound to, or none, and how many
// of those connections are kept.
type scope struct {
	netns, iface uint32
	n            int
}

// chunkSize is how many connections a chunk has room for.
const chunkSize = 1 << 10

func newTracks() tracks { return tracks{slots: make([]uint32, table.SlotsFor(0))} }

// slot is where the number of a key stands, or is to stand.
func (x *tracks) slot(key sock.Key) int {
	mask := len(x.slots) - 1
	for i := x.home(key); ; i = (i + 1) & mask {
		n := x.slots[i]
		if n == 0 {
			return i
		}
		if t := x.at(n - 1); t.Cookie == key.Cookie && x.scopes[t.scope].netns == key.Netns {
			return i
		}
	}
}

// home is the slot that a key is looked for first in.
func (x *tracks) home(key sock.Key) int {
	return table.Home(key.Cookie^uint64(key.Netns)<<32, len(x.slots))
}

func (x *tracks) at(number uint32) *tracked {
	return &x.chunks[number/chunkSize].tracks[number%chunkSize]
}

// get is the connection of a key, or nil.
func (x *tracks) get(key sock.Key) *tracked {
	if n := x.slots[x.slot(key)]; n != 0 {
		return x.at(n - 1)
	}
	return nil
}

// key is the one of a connection that is kept.
func (x *tracks) key(t *tracked) sock.Key {
	return sock.Key{Netns: x.scopes[t.scope].netns, Cookie: t.Cookie}
}

// id is what identifies the socket of a connection that is kept.
func (x *tracks) id(t *tracked) sock.ID {
	id, in := t.ID(), &x.scopes[t.scope]
	id.Netns, id.Iface = in.netns, in.iface
	return id
}

// connection is what was observed of a connection that is kept.
func (x *tracks) connection(t *tracked) track.Connection {
	c := t.Unpack()
	c.ID = x.id(t)
	return c
}

// number is the one of a connection that is kept.
func (x *tracks) number(t *tracked) uint32 { return x.slots[x.slot(x.key(t))] - 1 }

// add keeps one more connection. It stands where it is until it is removed.
func (x *tracks) add(c *track.Connection) *tracked {
	number, t := x.place()
	*t = tracked{Packed: c.Pack(), scope: x.scopeOf(c.ID.Netns, c.ID.Iface)}
	x.n++
	if table.SlotsFor(x.n) > len(x.slots) {
		x.resize(2 * len(x.slots))
	}
	x.slots[x.slot(c.ID.Key())] = number + 1
	return t
}

// place is one that is free, and its number.
func (x *tracks) place() (number uint32, t *tracked) {
	if len(x.roomy) == 0 {
		x.roomy = append(x.roomy, uint32(len(x.chunks)))
		x.chunks = append(x.chunks, trackChunk{})
	}
	chunk := x.roomy[len(x.roomy)-1]
	c := &x.chunks[chunk]
	if c.tracks == nil {
		*c, x.spare = x.spare, trackChunk{}
	}
	if c.tracks == nil {
		c.tracks, c.free = new([chunkSize]tracked), 1
		for i := range c.tracks {
			c.tracks[i].due = uint32(i + 2)
		}
	}
	at := c.free - 1
	t = &c.tracks[at]
	c.free = int(t.due)
	if c.used++; c.used == chunkSize {
		x.roomy = x.roomy[:len(x.roomy)-1]
	}
	return chunk*chunkSize + uint32(at), t
}

// scopeOf is the number of a scope, of which one more connection is kept.
func (x *tracks) scopeOf(netns, iface uint32) uint16 {
	at := slices.IndexFunc(x.scopes, func(s scope) bool { return s.netns == netns && s.iface == iface && s.n > 0 })
	if at < 0 {
		at = slices.IndexFunc(x.scopes, func(s scope) bool { return s.n == 0 })
	}
	if at < 0 {
		at = len(x.scopes)
		x.scopes = append(x.scopes, scope{})
	}
	x.scopes[at].netns, x.scopes[at].iface = netns, iface
	x.scopes[at].n++
	return uint16(at)
}

// remove forgets a connection, whose place another may take.
func (x *tracks) remove(t *tracked) {
	slot := x.slot(x.key(t))
	number := x.slots[slot] - 1
	x.vacate(slot)
	x.n--
	x.scopes[t.scope].n--
	c := &x.chunks[number/chunkSize]
	if c.used == chunkSize {
		x.roomy = append(x.roomy, number/chunkSize)
	}
	*t = tracked{}
	t.due, c.free = uint32(c.free), int(number%chunkSize)+1
	if c.used--; c.used == 0 {
		x.spare, *c = *c, trackChunk{}
	}
	if len(x.slots) > 8*table.SlotsFor(x.n) {
		x.resize(len(x.slots) / 4)
	}
}

// vacate empties a slot, and moves up what stands behind it for want of a better.
func (x *tracks) vacate(slot int) {
	mask := len(x.slots) - 1
	x.slots[slot] = 0
	for i := (slot + 1) & mask; x.slots[i] != 0; i = (i + 1) & mask {
		home := x.home(x.key(x.at(x.slots[i] - 1)))
		if (i-home)&mask >= (i-slot)&mask {
			x.slots[slot], x.slots[i] = x.slots[i], 0
			slot = i
		}
	}
}

func (x *tracks) resize(slots int) {
	old := x.slots
	x.slots = make([]uint32, slots)
	for _, n := range old {
		if n != 0 {
			x.slots[x.slot(x.key(x.at(n-1)))] = n
		}
	}
}

// all are the connections, in no order that means anything. The one that is being
// looked at may be removed.
func (x *tracks) all() iter.Seq[*tracked] {
	return func(yield func(*tracked) bool) {
		for _, t := range x.numbered() {
			if !yield(t) {
				return
			}
		}
	}
}

// numbered are the connections and their numbers.
func (x *tracks) numbered() iter.Seq2[uint32, *tracked] {
	return func(yield func(uint32, *tracked) bool) {
		for i := range x.chunks {
			c := x.chunks[i].tracks
			if c == nil {
				continue
			}
			for j := range c {
				if c[j].Cookie != 0 && !yield(uint32(i*chunkSize+j), &c[j]) {
					return
				}
			}
		}
	}
}
