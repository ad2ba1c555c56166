package sockettable

import (
	"cmp"
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

// item is what a row is sorted by. It has no pointers, which sorting would tell the
// garbage collector of.
type item struct {
	sortKey
	age   uint32 // in milliseconds, the oldest first; of those whose age is not known the highest
	index uint32 // of the row
}

// sort sorts the sockets. Among those alike the oldest comes first; those whose value
// is unknown come last, whatever the order.
func (t *Table) sort(o Order) {
	items := make([]item, len(t.rows))
	for i, r := range t.rows {
		items[i] = item{o.By.key(t, r), math.MaxUint32, uint32(i)}
		if r.known {
			items[i].age -= uint32(min(r.inState.Milliseconds(), math.MaxUint32-1)) + 1
		}
		if o.down {
			items[i].hi, items[i].lo, items[i].port = ^items[i].hi, ^items[i].lo, ^items[i].port
		}
	}
	slices.SortFunc(items, item.compare)
	rows := make([]*row, len(items))
	for i := range items {
		rows[i] = t.rows[items[i].index]
	}
	t.rows = rows
}

func (a item) compare(b item) int {
	switch {
	case a.unknown != b.unknown:
		if a.unknown {
			return 1
		}
		return -1
	case a.hi != b.hi:
		return cmp.Compare(a.hi, b.hi)
	case a.lo != b.lo:
		return cmp.Compare(a.lo, b.lo)
	case a.port != b.port:
		return cmp.Compare(a.port, b.port)
	case a.age != b.age:
		return cmp.Compare(a.age, b.age)
	default:
		return cmp.Compare(a.index, b.index)
	}
}
