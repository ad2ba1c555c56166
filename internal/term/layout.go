package term

import (
	"cmp"
	"slices"
)

// gap is the number of blanks between two columns.
const gap = 2

// hidden is the width of a column that is left out.
const hidden = -1

// Column is one column of a table, and what it gives up on a terminal that is too narrow:
// a line that is broken over two, or cut off, says less.
type Column struct {
	Head  string
	Whole bool // its cells are never cut; else their middle may be left out
	Spare int  // when the table goes without it, the lowest first; 0: never
}

// LastSpare is the lowest Spare of columns that tell too much to go before addresses are cut short.
const LastSpare = 10

// fit returns the widths of the columns in lines of so many cells; 0 is no bound. It
// takes from what is widest, though from no IPv4 address with its port, then leaves out
// columns, then takes from shorter addresses too, then leaves out more columns, and at
// the very last takes from what tells the most. What cannot fit even so keeps all
// columns.
func (t *Table) fit(cells int) []int {
	const whole, short, shortest = len("255.255.255.255:65535"), 14, 9
	if cells == 0 {
		return t.widths
	}
	var order []int
	early := 0
	for i, c := range t.Columns {
		if c.Spare > 0 {
			order = append(order, i)
		}
		if c.Spare > 0 && c.Spare < LastSpare {
			early++
		}
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(t.Columns[a].Spare, t.Columns[b].Spare) })
	for without, least := 0, whole; ; {
		if widths, ok := t.shrink(order[:without], cells, least); ok {
			return widths
		}
		switch {
		case without < early, least == short && without < len(order):
			without++
		case least == whole:
			least = short
		case least == short:
			least = shortest
		default:
			widths, _ := t.shrink(nil, cells, whole)
			return widths
		}
	}
}

// shrink leaves out columns, then takes from the widest of those that can be cut, down
// to least, until a line fits so many cells; it reports whether it does.
func (t *Table) shrink(without []int, cells, least int) (widths []int, ok bool) {
	widths = slices.Clone(t.widths)
	for _, column := range without {
		widths[column] = hidden
	}
	over := -gap - cells
	for _, width := range widths {
		if width != hidden {
			over += width + gap
		}
	}
	for ; over > 0; over-- {
		widest := -1
		for i, width := range widths {
			if !t.Columns[i].Whole && width > least && (widest < 0 || width > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			return widths, false
		}
		widths[widest]--
	}
	return widths, true
}
