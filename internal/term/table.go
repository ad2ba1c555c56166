package term

import (
	"bufio"
	"bytes"
	"io"
	"slices"
	"strings"
)

// Table collects cells, row by row, and prints them in columns that are as wide as
// their widest cell.
type Table struct {
	Columns []Column
	Bare    bool // there is no line of headings
	Wraps   bool // the last column breaks its cells over several lines where it must

	text   []byte // the cells, one after the other
	cells  []cell
	widths []int // of the columns, by the cells so far
	next   int   // the column of the next cell
}

// cell is how many bytes of the text a cell has, and how wide it is.
type cell struct{ size, width uint32 }

// NewTable returns a table of columns with those headings.
func NewTable(heads ...string) *Table {
	t := &Table{widths: make([]int, len(heads))}
	for _, head := range heads {
		t.Columns = append(t.Columns, Column{Head: head})
	}
	return t
}

// Grow makes room for so many rows.
func (t *Table) Grow(rows int) {
	const usual = 8 // bytes of a cell
	t.cells = slices.Grow(t.cells, rows*len(t.Columns))
	t.text = slices.Grow(t.text, rows*len(t.Columns)*usual)
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

// Width returns how many cells a line takes that has room for all.
func (t *Table) Width() int {
	width := -gap
	for i, c := range t.Columns {
		width += max(t.widths[i], len(c.Head)) + gap
	}
	return width
}

// Print prints the table in lines of so many cells at most, where that can be; 0 is
// no bound.
func (t *Table) Print(out io.Writer, cells int) error {
	if !t.Bare {
		for i, c := range t.Columns {
			t.widths[i] = max(t.widths[i], len(c.Head))
		}
	}
	widths := t.fit(cells)
	w := bufio.NewWriterSize(out, 64<<10)
	var line []byte
	if !t.Bare {
		for i, c := range t.Columns {
			line = t.appendCell(line, []byte(c.Head), len(c.Head), widths[i], i)
		}
		w.Write(line)
	}
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
	case last && t.Wraps:
		indent := "\n" + strings.Repeat(" ", Width(string(line)))
		line = append(line, strings.Join(Wrap(string(text), room), indent)...)
	default:
		line, width = append(line, elide(string(text), room)...), room
	}
	if last {
		return append(bytes.TrimRight(line, " "), '\n')
	}
	if room != hidden {
		line = append(line, strings.Repeat(" ", room+gap-width)...)
	}
	return line
}
