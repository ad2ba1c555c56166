package main

import (
	"encoding/binary"
	"io"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

// grid prints the rows of a crowd in columns that keep their place. How wide they
// are shows when the last row is there: until then it keeps the cells.
type grid struct {
	columns []*column
	kept    *column // by which the rows are sorted
	widths  []int   // of the columns, in cells
	pages   []cells
}

// cells are those of a page of rows, one after the other, each behind its length
// as a varint: of a row that is printed out of turn, all comes with one or two
// reads of memory.
type cells struct {
	text   []byte
	begins []uint32 // of the rows
	widths []int    // of the widest in each column
}

// newGrid makes a grid of columns, as wide as their headings if they are to be.
func newGrid(columns []*column, headings bool) *grid {
	g := &grid{columns: columns, widths: make([]int, len(columns))}
	if headings {
		for i, c := range columns {
			g.widths[i] = len(c.head)
		}
	}
	return g
}

// cells prints those of a page of the crowd. Several threads may do so at once,
// and beside the look that fills another page, where no column is late.
func (g *grid) cells(c *crowd, page []row) cells {
	const usual = 10 // bytes for a cell
	p := cells{
		text:   make([]byte, 0, len(page)*len(g.columns)*usual),
		begins: make([]uint32, len(page)),
		widths: make([]int, len(g.columns)),
	}
	for i := range page {
		p.begins[i] = uint32(len(p.text))
		for k, column := range g.columns {
			begin := len(p.text)
			p.text = column.print(c, append(p.text, 0), &page[i])
			cell := p.text[begin+1:]
			p.widths[k] = max(p.widths[k], column.width(cell))
			if p.text[begin] = byte(len(cell)); len(cell) > 0x7f {
				p.text = slices.Replace(p.text, begin, begin+1, binary.AppendUvarint(nil, uint64(len(cell)))...)
			}
		}
	}
	return p
}

// add takes the cells of the next page.
func (g *grid) add(p cells) {
	g.pages = append(g.pages, p)
	for k, width := range p.widths {
		g.widths[k] = max(g.widths[k], width)
	}
}

// print prints the rows in that order, and the headings if they are to be, in
// lines of so many cells at most where that can be; 0 is no bound.
func (g *grid) print(out io.Writer, rows []int, headings bool, fit int) error {
	g.narrow(fit)
	if headings {
		var line []byte
		for i, c := range g.columns {
			line = g.appendCell(line, []byte(c.head), i)
		}
		if _, err := out.Write(line); err != nil {
			return err
		}
	}
	return inBlocks(out, rows, g.appendLines)
}

// appendLines appends those of some rows.
func (g *grid) appendLines(b []byte, rows []int) []byte {
	// The order is not that of the memory: to read a little of each row first lets the
	// processor fetch many at a time, where the copying would wait for each.
	var touched byte
	for _, row := range rows {
		cells := g.row(row)
		touched |= cells[0] | cells[min(64, len(cells)-1)]
	}
	runtime.KeepAlive(touched)
	for _, row := range rows {
		rest := g.row(row)
		for k := range g.columns {
			end, size := int(rest[0]), 1
			if end > 0x7f {
				length, n := binary.Uvarint(rest)
				end, size = int(length), n
			}
			end += size
			b = g.appendCell(b, rest[size:end], k)
			rest = rest[end:]
		}
	}
	return b
}

// row is the cells from that row on.
func (g *grid) row(row int) []byte {
	p := &g.pages[row/pageRows]
	return p.text[p.begins[row%pageRows]:]
}

// gap is the blanks between two columns.
const gap = 2

// appendCell appends a cell in its column, and ends the line after the last.
func (g *grid) appendCell(b, cell []byte, column int) []byte {
	room, last := g.widths[column], column == len(g.columns)-1
	if room != hidden {
		width := g.columns[column].width(cell)
		if width > room {
			b, width = appendElided(b, cell, room), room
		} else {
			b = append(b, cell...)
		}
		if !last {
			b = appendBlanks(b, room+gap-width)
		}
	}
	if last {
		b = append(b, '\n')
	}
	return b
}

func appendBlanks(b []byte, n int) []byte {
	const blanks = "                                "
	for ; n > len(blanks); n -= len(blanks) {
		b = append(b, blanks...)
	}
	return append(b, blanks[:n]...)
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

// dispensable are the columns that a terminal goes without, one after the other,
// where a line with them would not fit: one that is broken over two, or cut off
// under --watch, says less.
var dispensable = []string{"idle", "send-q", "recv-q"}

// hidden is the width of a column that is left out.
const hidden = -1

// narrow makes the lines fit so many cells; 0 is no bound. It leaves out the
// middle of what is widest, though of no IPv4 address with its port, then columns,
// and then that of shorter addresses too. What cannot fit even so keeps its
// columns.
func (g *grid) narrow(fit int) {
	const whole, least = len("255.255.255.255:65535"), 15
	if fit == 0 {
		return
	}
	natural := g.widths
	for without := range len(dispensable) + 1 {
		if g.widths = g.leaveOut(natural, without); g.shrink(fit, whole) {
			return
		}
	}
	if g.shrink(fit, least) {
		return
	}
	g.widths = slices.Clone(natural)
	g.shrink(fit, whole)
}

// leaveOut returns widths without the first n of what is dispensable. What the rows
// are sorted by stays, and so does the last column, which ends the line.
func (g *grid) leaveOut(widths []int, n int) []int {
	widths = slices.Clone(widths)
	for i, c := range g.columns[:len(g.columns)-1] {
		if c != g.kept && slices.Contains(dispensable[:n], c.name) {
			widths[i] = hidden
		}
	}
	return widths
}

// shrink takes from the widest of the columns that can be narrowed, down to least,
// until a line fits so many cells, and reports whether it does.
func (g *grid) shrink(fit, least int) bool {
	over := -gap - fit
	for _, width := range g.widths {
		if width != hidden {
			over += width + gap
		}
	}
	for ; over > 0; over-- {
		widest := -1
		for i, c := range g.columns {
			if c.narrows && g.widths[i] > least && (widest < 0 || g.widths[i] > g.widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			return false
		}
		g.widths[widest]--
	}
	return true
}

// inBlocks writes what block appends for the indices, in their order. Blocks of
// them are made by as many threads as there are, while the ones before are
// written: what was made in another order is read from memory, not from a cache.
func inBlocks(out io.Writer, indices []int, block func(b []byte, indices []int) []byte) error {
	const size = 2048
	blocks := slices.Collect(slices.Chunk(indices, size))
	made := make([]chan []byte, len(blocks))
	for i := range made {
		made[i] = make(chan []byte, 1)
	}
	threads := min(runtime.GOMAXPROCS(0), len(blocks))
	free := make(chan []byte, 2*threads) // who has none waits for the writer
	for range cap(free) {
		free <- nil
	}
	var next atomic.Int64
	var workers sync.WaitGroup
	for range threads {
		workers.Go(func() {
			for b := range free {
				i := int(next.Add(1)) - 1
				if i >= len(blocks) {
					return
				}
				made[i] <- block(b[:0], blocks[i])
			}
		})
	}
	var err error
	for i := range made {
		b := <-made[i]
		if err == nil {
			_, err = out.Write(b)
		}
		free <- b
	}
	close(free)
	workers.Wait()
	return err
}
