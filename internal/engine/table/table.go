// Package table keeps hundreds of thousands of entries in little memory: a map of Go would
// take twice as much, and as much again while it grows.
package table

import "math/bits"

// SlotsFor returns how many slots of a hash table with open addressing so many entries
// take: a power of two, at most four fifths of them in use.
func SlotsFor(n int) int { return max(1<<4, 1<<bits.Len(uint(5*n/4))) }

// Home returns the one of so many slots in which a key is looked for first. Cookies are
// handed out in runs of consecutive numbers, which Fibonacci hashing spreads.
func Home(key uint64, slots int) int {
	return int(key * 0x9E3779B97F4A7C15 >> (64 - bits.TrailingZeros(uint(slots))))
}

// Cookies holds a value for each of some socket cookies.
type Cookies[V any] struct {
	keys   []uint64 // by slot; 0, which is the cookie of no socket (__sock_gen_cookie): empty
	values []V
	n      int
}

// NewCookies makes room for about so many.
func NewCookies[V any](expect int) *Cookies[V] {
	slots := SlotsFor(expect)
	return &Cookies[V]{keys: make([]uint64, slots), values: make([]V, slots)}
}

// Len returns how many cookies are there.
func (c *Cookies[V]) Len() int { return c.n }

// Slots returns how many slots there are.
func (c *Cookies[V]) Slots() int { return len(c.keys) }

// Slot returns where a cookie stands, or is to stand, and whether it is there.
func (c *Cookies[V]) Slot(cookie uint64) (at int, ok bool) {
	mask := len(c.keys) - 1
	for at = Home(cookie, len(c.keys)); c.keys[at] != cookie && c.keys[at] != 0; {
		at = (at + 1) & mask
	}
	return at, c.keys[at] == cookie
}

// Has reports whether a cookie is there.
func (c *Cookies[V]) Has(cookie uint64) bool {
	_, ok := c.Slot(cookie)
	return ok
}

// Value returns the one that stands there.
func (c *Cookies[V]) Value(at int) V { return c.values[at] }

// Put has a cookie stand for a value.
func (c *Cookies[V]) Put(cookie uint64, value V) {
	at, ok := c.Slot(cookie)
	c.keys[at], c.values[at] = cookie, value
	if ok {
		return
	}
	if c.n++; SlotsFor(c.n+1) > len(c.keys) {
		more := NewCookies[V](c.n + 1)
		for i, cookie := range c.keys {
			if cookie != 0 {
				more.Put(cookie, c.values[i])
			}
		}
		*c = *more
	}
}
