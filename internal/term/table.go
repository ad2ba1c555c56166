package term

import (
	"bufio"
	"bytes"
	"io"
	"slices"
)

// Table collects cells, row by row, and prints them in columns that are as wide as
// their widest cell.
type Table struct {
	Heads  []string // of the columns; nil: there is no line of headings
	Layout Layout

	text   []byte // the cells, one after the other
	cells  []cell
	widths []int // of the columns, by the cells so far
	next   int   // the column of the next cell
}

// cell is how many bytes of the text a cell has, and how wide it is.
type cell struct{ size, width uint32 }

// NewTable returns a table of so many columns with room for so many rows.
func NewTable(columns, rows int) *Table {
	const usual = 8 // bytes of a cell
	return &Table{
		text: make([]byte, 0, rows*columns*usual), cells: make([]cell, 0, rows*columns),
		widths: make([]int, columns),
	}
}

// TableOf returns a table of some columns whose last breaks its cells over several lines
// where it must.
func TableOf(heads ...string) *Table {
	t := NewTable(len(heads), 0)
	t.Heads, t.Layout.Wraps = heads, true
	return t
}

// Buffer returns what the next cell is to be appended to.
func (t *Table) Buffer() []byte { return t.text }

// Add takes the cell that was appended to the buffer. What would govern the terminal
// is replaced.
func (t *Table) Add(buffer []byte) {
	begin := len(t.text)
	width := len(buffer) - begin
	const bound = "≥" // of which a table may be full
	rest := buffer[begin:]
	if bytes.HasPrefix(rest, []byte(bound)) {
		rest = rest[len(bound):]
		width -= len(bound) - 1
	}
	for _, c := range rest {
		if c < ' ' || c > '~' {
			text := Printable(string(buffer[begin:]))
			buffer, width = append(buffer[:begin], text...), Width(text)
			break
		}
	}
	t.text = buffer
	t.cells = append(t.cells, cell{uint32(len(buffer) - begin), uint32(width)})
	t.widths[t.next] = max(t.widths[t.next], width)
	t.next = (t.next + 1) % len(t.widths)
}

// Row adds the cells of a row.
func (t *Table) Row(cells ...string) {
	for _, text := range cells {
		t.Add(append(t.text, text...))
	}
}

// Empty reports whether the table has no rows.
func (t *Table) Empty() bool { return len(t.cells) == 0 }

// Print prints the table in lines of so many cells at most, where that can be; 0 is
// no bound.
func (t *Table) Print(out io.Writer, cells int) error {
	if t.Empty() && t.Heads == nil {
		return nil
	}
	for i, head := range t.Heads {
		t.widths[i] = max(t.widths[i], len(head))
	}
	widths := t.Layout.fit(t.widths, cells)
	w := bufio.NewWriterSize(out, 64<<10)
	var line []byte
	for i, head := range t.Heads {
		line = t.appendCell(line, []byte(head), len(head), widths[i], i)
	}
	w.Write(line)
	rest, column := t.text, 0
	for _, c := range t.cells {
		if column == 0 {
			line = line[:0]
		}
		line = t.appendCell(line, rest[:c.size], int(c.width), widths[column], column)
		rest = rest[c.size:]
		if column++; column == len(widths) {
			column = 0
			if _, err := w.Write(line); err != nil {
				return err
			}
		}
	}
	return w.Flush()
}

// appendCell appends a cell that is so wide in a column that has so much room, and ends
// the line after the last.
func (t *Table) appendCell(line, text []byte, width, room, column int) []byte {
	last := column == len(t.widths)-1
	switch {
	case room == hidden:
	case width <= room:
		line = append(line, text...)
	case last && t.Layout.Wraps:
		indent := slices.Repeat([]byte(" "), Width(string(line)))
		for i, part := range Wrap(string(text), room) {
			if i > 0 {
				line = append(append(line, '\n'), indent...)
			}
			line = append(line, part...)
		}
	default:
		line, width = append(line, elide(string(text), room)...), room
	}
	if last {
		return append(bytes.TrimRight(line, " "), '\n')
	}
	if room != hidden {
		line = appendBlanks(line, room+gap-width)
	}
	return line
}

func appendBlanks(b []byte, n int) []byte {
	const blanks = "                                "
	for ; n > len(blanks); n -= len(blanks) {
		b = append(b, blanks...)
	}
	return append(b, blanks[:n]...)
}
