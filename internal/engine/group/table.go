package group

import (
	"bytes"
	"hash/maphash"

	hashed "github.com/sockdog/sockdog/internal/engine/table"
)

// table holds values under keys: a hash table with open addressing,
// and what is in it end to end beside that. A map of Go would take twice the memory
// for 100,000 entries, and as much again while it grows.
type table[V any] struct {
	width, most int // of a key, in bytes, below 0: that varies; of entries, below 1<<numberBits
	seed        maphash.Seed
	slots       []slot
	chunks      []chunk[V]
	n           int
}

// cookieSet is a set of socket cookies, of any network namespace: see sock.Key.
type cookieSet = hashed.Cookies[struct{}]

// chunk holds chunkSize entries, or in the last one fewer.
type chunk[V any] struct {
	keys   []byte
	ends   []uint32 // of the keys, where their width varies
	values []V
}

const chunkSize = 1 << 10

// slot is an entry's number, counted from one, and above that some bits of the
// key's hash: with those, hardly ever another entry's key must be fetched only to
// see that it is another. 0: empty.
type slot uint32

// numberBits are enough for MaxGroups.
const numberBits = 17

func (s slot) number() uint32 { return uint32(s & (1<<numberBits - 1)) }

func slotOf(hash uint64, number int) slot {
	return slot(hash>>(32+numberBits)<<numberBits) | slot(number)
}

// newTable makes a table for about so many entries.
func newTable[V any](width, most, expect int) table[V] {
	return table[V]{width: width, most: most, seed: maphash.MakeSeed(), slots: make([]slot, hashed.SlotsFor(min(expect, most)))}
}

// at is the value under a key, made where there is none, and its number, counted
// from one; 0: that would be one too many. The value stands there until the next call.
func (t *table[V]) at(key []byte) (number uint32, value *V) {
	hash := maphash.Bytes(t.seed, key)
	s := t.find(hash, key)
	if *s != 0 {
		return s.number(), t.value(s.number())
	}
	if t.n >= t.most {
		return 0, nil
	}
	if hashed.SlotsFor(t.n+1) > len(t.slots) {
		t.grow()
		s = t.find(hash, key)
	}
	if t.n%chunkSize == 0 {
		room := chunkSize
		if t.n == 0 {
			room = 0 // there may never be more than a few
		}
		t.chunks = append(t.chunks, chunk[V]{keys: make([]byte, 0, room*max(0, t.width)), values: make([]V, 0, room)})
	}
	last := &t.chunks[len(t.chunks)-1]
	var zero V
	last.keys, last.values = append(last.keys, key...), append(last.values, zero)
	if t.width < 0 {
		last.ends = append(last.ends, uint32(len(last.keys)))
	}
	t.n++
	*s = slotOf(hash, t.n)
	return s.number(), t.value(s.number())
}

// get is the value under a key; nil: there is none.
func (t *table[V]) get(key []byte) *V {
	if s := t.find(maphash.Bytes(t.seed, key), key); *s != 0 {
		return t.value(s.number())
	}
	return nil
}

func (t *table[V]) value(number uint32) *V {
	return &t.chunks[(number-1)/chunkSize].values[(number-1)%chunkSize]
}

func (t *table[V]) key(number uint32) []byte {
	c, i := &t.chunks[(number-1)/chunkSize], int((number-1)%chunkSize)
	if t.width >= 0 {
		return c.keys[i*t.width : (i+1)*t.width]
	}
	from := uint32(0)
	if i > 0 {
		from = c.ends[i-1]
	}
	return c.keys[from:c.ends[i]]
}

// find returns the slot of a key, or the empty one that is to be its.
func (t *table[V]) find(hash uint64, key []byte) *slot {
	mask, want := uint64(len(t.slots)-1), slotOf(hash, 0)
	for i := hash & mask; ; i = (i + 1) & mask {
		s := &t.slots[i]
		if *s == 0 || *s&^(1<<numberBits-1) == want && bytes.Equal(t.key(s.number()), key) {
			return s
		}
	}
}

// grow doubles the slots.
func (t *table[V]) grow() {
	t.slots = make([]slot, 2*len(t.slots))
	mask := uint64(len(t.slots) - 1)
	t.all(func(number uint32, key []byte, _ *V) {
		hash := maphash.Bytes(t.seed, key)
		i := hash & mask
		for t.slots[i] != 0 {
			i = (i + 1) & mask
		}
		t.slots[i] = slotOf(hash, int(number))
	})
}

// all calls do for each entry, in the order in which they came.
func (t *table[V]) all(do func(number uint32, key []byte, value *V)) {
	for n := uint32(1); n <= uint32(t.n); n++ {
		do(n, t.key(n), t.value(n))
	}
}
