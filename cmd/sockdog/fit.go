package main

import (
	"slices"
	"unicode/utf8"
)

// gap is the blanks between two columns.
const gap = 2

// hidden is the width of a column that is left out.
const hidden = -1

// layout is what the columns of a table can give up on a terminal that is too
// narrow: a line that is broken over two, or cut off under --watch, says less.
type layout struct {
	narrows []bool // by column: its cells do with less
	spare   []int  // columns to go without, one after the other
	last    []int  // those to go without where short addresses do not help either
}

// fit returns the widths of columns that are naturally so wide, in lines of so many
// cells; 0 is no bound. It takes from what is widest, though from no IPv4 address
// with its port, then leaves out columns, then takes from shorter addresses too, and
// then leaves out more columns, and at the very last takes from what tells the most. What
// cannot fit even so keeps them all.
func (l *layout) fit(natural []int, cells int) []int {
	const whole, least, last = len("255.255.255.255:65535"), 14, 9
	widths := slices.Clone(natural)
	if cells == 0 || l.shrink(widths, cells, whole) {
		return widths
	}
	for n := range l.spare {
		if l.without(widths, natural, l.spare[:n+1]); l.shrink(widths, cells, whole) {
			return widths
		}
	}
	for n := range len(l.last) + 1 {
		if l.without(widths, natural, slices.Concat(l.spare, l.last[:n])); l.shrink(widths, cells, least) {
			return widths
		}
	}
	if l.without(widths, natural, slices.Concat(l.spare, l.last)); l.shrink(widths, cells, last) {
		return widths
	}
	copy(widths, natural)
	l.shrink(widths, cells, whole)
	return widths
}

// without sets the widths to the natural ones, but for columns that are left out.
func (*layout) without(widths, natural, columns []int) {
	copy(widths, natural)
	for _, column := range columns {
		widths[column] = hidden
	}
}

// shrink takes from the widest of the columns that can be narrowed, down to least,
// until a line fits so many cells, and reports whether it does.
func (l *layout) shrink(widths []int, cells, least int) bool {
	over := -gap - cells
	for _, width := range widths {
		if width != hidden {
			over += width + gap
		}
	}
	for ; over > 0; over-- {
		widest := -1
		for i, width := range widths {
			if l.narrows[i] && width > least && (widest < 0 || width > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			return false
		}
		widths[widest]--
	}
	return true
}

// appendElided leaves out the middle: the beginning and the end of an address
// tell more.
func appendElided(b, cell []byte, width int) []byte {
	runes := []rune(string(cell))
	head := (width - 1) / 2
	tail := len(runes) - (width - 1 - head)
	b = append(b, string(runes[:head])...)
	b = append(b, "…"...)
	return append(b, string(runes[tail:])...)
}

// wrap parts a text into lines of so many cells, between words where it can; 0 is
// no bound.
func wrap(text string, cells int) []string {
	if cells == 0 || utf8.RuneCountInString(text) <= cells {
		return []string{text}
	}
	var lines []string
	rest := []rune(text)
	for len(rest) > cells {
		end, next := cells, cells
		for i := cells; i > 0; i-- {
			if rest[i] == ' ' {
				end, next = i, i+1
				break
			}
		}
		lines = append(lines, string(rest[:end]))
		rest = rest[next:]
	}
	return append(lines, string(rest))
}
