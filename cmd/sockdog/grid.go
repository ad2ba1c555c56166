package main

import (
	"bytes"
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
	kept    *column  // by which the rows are sorted
	same    []string // columns that tell the same of all rows
	empty   []string // those that tell nothing of any
	widths  []int    // of the columns, in cells
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
// and beside the scan that fills another page, where no column is late.
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
	layout := g.layout()
	g.widths = layout.fit(g.widths, fit)
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
		b = append(bytes.TrimRight(b, " "), '\n') // the last may be hidden
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

// What a narrow terminal goes without, beside what is empty, and, beside what is the
// same, a very narrow one.
var (
	dispensable = []string{"idle", "send-q", "recv-q"}
	lastOfAll   = []string{"local", "verdict"}
)

// layout is what the columns can give up. What the rows are sorted by stays.
func (g *grid) layout() layout {
	l := layout{narrows: make([]bool, len(g.columns))}
	for i, c := range g.columns {
		l.narrows[i] = c.narrows
	}
	l.spare = g.given(slices.Concat(dispensable, g.empty))
	l.last = g.given(slices.Concat(g.same, lastOfAll))
	return l
}

// given are the places of columns of these names that can be given up.
func (g *grid) given(names []string) []int {
	var places []int
	for _, name := range names {
		i := slices.IndexFunc(g.columns, func(c *column) bool { return c.name == name })
		if i >= 0 && g.columns[i] != g.kept {
			places = append(places, i)
		}
	}
	return places
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
