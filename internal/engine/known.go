package engine

import "math/bits"

// known are the sockets, by their cookies, that are tracked, and those of which
// observation may know more than the kernel does: a hash table with open addressing.
// It is of one network namespace, as a scan is.
type known struct {
	cookies []uint64 // a power of two, at most four fifths of them in use; 0: empty
	prints  []uint32
	shown   []uint64 // bit n%64 of n/64: a scan showed the socket at n as it was
}

// What is known of a socket. Any other number is the fingerprint of its last answer,
// of which the kernel knows all times as well.
const (
	knownBefore uint32 = iota // an earlier run knew it, or it was seen in an accept queue
	knownNow                  // it is tracked
)

func newKnown(n int) known {
	slots := slotsFor(n)
	return known{cookies: make([]uint64, slots), prints: make([]uint32, slots), shown: make([]uint64, (slots+63)/64)}
}

// slot is where a cookie stands, or is to stand.
func (k *known) slot(cookie uint64) int {
	mask := len(k.cookies) - 1
	i := int(cookie * 0x9E3779B97F4A7C15 >> (64 - bits.TrailingZeros(uint(len(k.cookies)))))
	for k.cookies[i] != cookie && k.cookies[i] != 0 {
		i = (i + 1) & mask
	}
	return i
}

func (k *known) add(cookie uint64, print uint32) {
	i := k.slot(cookie)
	k.cookies[i], k.prints[i] = cookie, print
}

// get is what is known of a socket, and where it stands.
func (k *known) get(cookie uint64) (at int, print uint32, ok bool) {
	if len(k.cookies) == 0 {
		return 0, 0, false
	}
	at = k.slot(cookie)
	return at, k.prints[at], k.cookies[at] != 0
}
