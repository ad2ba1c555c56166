package table

// Bits is a set of small numbers.
type Bits []uint64

// Set puts a number in.
func (b *Bits) Set(n int) {
	for n/64 >= len(*b) {
		*b = append(*b, 0)
	}
	(*b)[n/64] |= 1 << (n % 64)
}

// Has reports whether a number is there.
func (b Bits) Has(n int) bool { return n/64 < len(b) && b[n/64]&(1<<(n%64)) != 0 }
