package sockettable

import (
	"cmp"
	"encoding/binary"
	"math"
	"slices"
	"strings"
)

// Order is how sockets are sorted.
type Order struct {
	By   *Column
	down bool
}

// ParseOrder reads --sort: the name of a column, with a - before it for the other
// way.
func ParseOrder(text string, reverse bool) (Order, error) {
	name, other := strings.CutPrefix(text, "-")
	c, err := columnNamed(name, "sort by", Sortable())
	if err != nil {
		return Order{}, err
	}
	return Order{c, c.high != (other != reverse)}, nil
}

// item is what a row is sorted by: comparing numbers takes a fraction of the time that
// comparing texts would. It has no pointers, which sorting would tell the garbage
// collector of.
type item struct {
	hi, lo  uint64
	age     uint32 // in milliseconds, the oldest first; of those whose age is not known the highest
	index   uint32 // of the row
	port    uint16
	unknown bool // last, whatever the order
}

// itemOf is the item of a row by a column.
func (t *Table) itemOf(by *Column, r *row) (i item) {
	first := func(b []byte) { i.hi, i.lo = binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:]) }
	switch {
	case by.text != nil:
		var head [16]byte // more than a comm or the name of a device has
		i.unknown = copy(head[:], by.text(t, r)) == 0
		first(head[:])
	case by.number != nil:
		n, known := by.number(t, r)
		i.unknown, i.lo = !known, n
	case by.addr != nil:
		bytes := by.addr(r).Addr().As16()
		first(bytes[:])
		if !by.host {
			i.port = by.addr(r).Port()
		}
	case by.age != nil:
		i.unknown, i.lo = !r.Known, uint64(by.age(r).Milliseconds())
	}
	i.age = math.MaxUint32
	if r.Known {
		i.age -= uint32(min(r.InState.Milliseconds(), math.MaxUint32-1)) + 1
	}
	return i
}

// sort sorts the sockets. Among those alike the oldest comes first; those whose value
// is unknown come last, whatever the order.
func (t *Table) sort(o Order) {
	items := make([]item, len(t.rows))
	for n, r := range t.rows {
		i := t.itemOf(o.By, r)
		i.index = uint32(n)
		if o.down {
			i.hi, i.lo, i.port = ^i.hi, ^i.lo, ^i.port
		}
		items[n] = i
	}
	slices.SortFunc(items, item.compare)
	rows := make([]*row, len(items))
	for n, i := range items {
		rows[n] = t.rows[i.index]
	}
	t.rows = rows
}

func (i item) compare(other item) int {
	switch {
	case i.unknown != other.unknown:
		if i.unknown {
			return 1
		}
		return -1
	case i.hi != other.hi:
		return cmp.Compare(i.hi, other.hi)
	case i.lo != other.lo:
		return cmp.Compare(i.lo, other.lo)
	}
	return cmp.Or(cmp.Compare(i.port, other.port), cmp.Compare(i.age, other.age), cmp.Compare(i.index, other.index))
}
