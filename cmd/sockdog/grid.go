package main

import (
	"bytes"
	"io"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"unicode/utf8"
)

// grid prints the rows of a crowd in columns that keep their place. How wide they
// are shows when the last row is there. The lines are made all the same as the
// rows come, as wide as the rows until then, and made again if that was too
// narrow: in some thousand sockets most lengths occur.
type grid struct {
	columns []*column
	kept    *column // by which the rows are sorted
	widths  []int   // of the columns, in cells
	pages   []lines
	cells   []byte // of the rows of one page, side by side
	extents []extent
}

// lines are those of a page of rows.
type lines struct {
	text   []byte
	ends   []uint32 // of each line, after a first 0
	widths []int
}

// extent is how long a cell is, in bytes, and how wide.
type extent struct{ bytes, width int }

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

// add takes the next page of the crowd. It may run beside the look that fills the
// page after it, where no column is late.
func (g *grid) add(c *crowd, page []row) {
	g.cells, g.extents = g.cells[:0], g.extents[:0]
	for i := range page {
		for k, column := range g.columns {
			begin := len(g.cells)
			g.cells = column.print(c, g.cells, &page[i])
			cell := extent{bytes: len(g.cells) - begin, width: len(g.cells) - begin}
			if !column.ascii {
				cell.width = utf8.RuneCount(g.cells[begin:])
			}
			g.extents = append(g.extents, cell)
			g.widths[k] = max(g.widths[k], cell.width)
		}
	}
	l := newLines(len(page), g.widths)
	rest, extents := g.cells, g.extents
	for range page {
		for k := range g.columns {
			l.appendCell(rest[:extents[k].bytes], extents[k].width, k)
			rest = rest[extents[k].bytes:]
		}
		extents = extents[len(g.columns):]
	}
	g.pages = append(g.pages, l)
}

// print prints the rows in that order, and the headings if they are to be, in
// lines of so many cells at most where that can be; 0 is no bound.
func (g *grid) print(out io.Writer, rows []int, headings bool, fit int) error {
	g.narrow(fit)
	for i := range g.pages {
		if !slices.Equal(g.pages[i].widths, g.widths) {
			g.pages[i] = g.pages[i].again(g.widths)
		}
	}
	if headings {
		l := newLines(1, g.widths)
		for i, c := range g.columns {
			l.appendCell([]byte(c.head), len(c.head), i)
		}
		if _, err := out.Write(l.text); err != nil {
			return err
		}
	}
	return inBlocks(out, rows, func(b []byte, index int) []byte {
		l, at := &g.pages[index/pageRows], index%pageRows
		return append(b, l.text[l.ends[at]:l.ends[at+1]]...)
	})
}

func newLines(n int, widths []int) lines {
	length := 8 // for what takes more than one byte a cell
	for _, width := range widths {
		length += width + gap
	}
	return lines{text: make([]byte, 0, n*length), ends: make([]uint32, 1, n+1), widths: slices.Clone(widths)}
}

// gap is the blanks between two columns.
const gap = 2

// appendCell appends a cell in its column, and ends the line after the last.
func (l *lines) appendCell(cell []byte, width, column int) {
	room := l.widths[column]
	if room == hidden {
		return
	}
	if width > room {
		l.text, width = appendElided(l.text, cell, room), room
	} else {
		l.text = append(l.text, cell...)
	}
	if column < len(l.widths)-1 {
		l.text = appendBlanks(l.text, l.widths[column]+gap-width)
		return
	}
	l.text = append(l.text, '\n')
	l.ends = append(l.ends, uint32(len(l.text)))
}

func appendBlanks(b []byte, n int) []byte {
	const blanks = "                                "
	for ; n > len(blanks); n -= len(blanks) {
		b = append(b, blanks...)
	}
	return append(b, blanks[:n]...)
}

// again makes the lines again in columns of other widths. The cells are found by
// where they stand.
func (l *lines) again(widths []int) lines {
	m := newLines(len(l.ends)-1, widths)
	for rest := l.text; len(rest) > 0; {
		for i, width := range l.widths {
			end := 0
			if i == len(l.widths)-1 {
				end = bytes.IndexByte(rest, '\n')
				width = -1
			}
			for ; width > 0; width-- {
				_, size := utf8.DecodeRune(rest[end:])
				end += size
			}
			cell := bytes.TrimRight(rest[:end], " ")
			m.appendCell(cell, utf8.RuneCount(cell), i)
			if i == len(l.widths)-1 {
				rest = rest[end+1:]
			} else {
				rest = rest[end+gap:]
			}
		}
	}
	return m
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

// inBlocks writes what each appends for the indices, in their order. Blocks of
// them are made by as many threads as there are, while the ones before are
// written: what was made in another order is read from memory, not from a cache.
func inBlocks(out io.Writer, indices []int, each func(b []byte, index int) []byte) error {
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
				b = b[:0]
				for _, index := range blocks[i] {
					b = each(b, index)
				}
				made[i] <- b
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
