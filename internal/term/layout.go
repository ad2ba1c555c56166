package term

import "slices"

// gap is the number of blanks between two columns.
const gap = 2

// hidden is the width of a column that is left out.
const hidden = -1

// Layout says what the columns of a table give up on a terminal that is too narrow: a
// line that is broken over two, or cut off, says less.
type Layout struct {
	Narrows []bool // by column: the middle of its cells may be left out; nil: of all
	Spare   []int  // the columns to go without, one after the other
	Last    []int  // those to go without where short addresses do not help either
	Wraps   bool   // the last column breaks its cells over several lines instead
}

// fit returns the widths of columns that are naturally so wide, in lines of so many
// cells; 0 is no bound. It takes from what is widest, though from no IPv4 address
// with its port, then leaves out columns, then takes from shorter addresses too,
// then leaves out more columns, and at the very last takes from what tells the most.
// What cannot fit even so keeps all columns.
func (l *Layout) fit(natural []int, cells int) []int {
	const whole, least, last = len("255.255.255.255:65535"), 14, 9
	if cells == 0 {
		return slices.Clone(natural)
	}
	for n := range len(l.Spare) + 1 {
		if widths, ok := l.shrink(natural, l.Spare[:n], cells, whole); ok {
			return widths
		}
	}
	for n := range len(l.Last) + 1 {
		if widths, ok := l.shrink(natural, slices.Concat(l.Spare, l.Last[:n]), cells, least); ok {
			return widths
		}
	}
	if widths, ok := l.shrink(natural, slices.Concat(l.Spare, l.Last), cells, last); ok {
		return widths
	}
	widths, _ := l.shrink(natural, nil, cells, whole)
	return widths
}

// shrink leaves out columns, then takes from the widest of those that can be narrowed,
// down to least, until a line fits so many cells; it reports whether it does.
func (l *Layout) shrink(natural, without []int, cells, least int) (widths []int, ok bool) {
	widths = slices.Clone(natural)
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
			if (l.Narrows == nil || l.Narrows[i]) && width > least && (widest < 0 || width > widths[widest]) {
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
