package recording

import (
	"bytes"
	"cmp"
	"compress/flate"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/sockdog/sockdog/internal/sock"
)

// Writer writes a recording. A scan is begun, given its sockets one by one, and ended; or begun
// again, if it failed.
type Writer struct {
	out  io.Writer
	mask *Mask // nil: nothing is masked
	// within is how far apart the kernel may tell the same instant, in stampUnit.
	within uint64

	table
	texts     numbers[string]
	processes numbers[process]
	sets      numbers[string] // of processes, as they are written

	// The scan under way:
	scan    uint32
	changed []change
	rows    []row // of those
	added   []row
	news    map[sock.Key]struct{} // of added

	last    Scan // that was written
	offset  int64
	scans   int
	size    int64
	content []byte
	frame   []byte
	packed  bytes.Buffer
	packer  *flate.Writer
}

// change is what becomes of an entry.
type change struct{ slot, row int32 } // the latter by its number in Writer.rows

// numbers numbers values, from one on: 0 is the zero value's.
type numbers[V comparable] struct {
	of    map[V]uint64
	fresh []V // which are not written yet
}

func newNumbers[V comparable]() numbers[V] {
	var zero V
	return numbers[V]{of: map[V]uint64{zero: 0}}
}

func (n *numbers[V]) number(v V) uint64 {
	i, known := n.of[v]
	if !known {
		i = uint64(len(n.of))
		n.of[v], n.fresh = i, append(n.fresh, v)
	}
	return i
}

// NewWriter begins a recording. With a mask it has no address, and perhaps no name, as it is.
func NewWriter(out io.Writer, h Header, mask *Mask) (*Writer, error) {
	packer, err := flate.NewWriter(nil, flate.DefaultCompression)
	if err != nil {
		return nil, err
	}
	w := &Writer{
		out: out, mask: mask, within: uint64(2 * h.Precision / stampUnit), table: newTable(),
		texts: newNumbers[string](), processes: newNumbers[process](), sets: newNumbers[string](),
		news: make(map[sock.Key]struct{}), packer: packer,
	}
	h.Masked = mask.hides()
	text, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	w.frame = fmt.Appendf(nil, "%s%d\n", magic, Version)
	return w, w.write(headerFrame, text)
}

// Size is how many bytes the frames have that were written whole, Scans how many scans, and
// Sockets how many sockets the last one had.
func (w *Writer) Size() int64  { return w.size }
func (w *Writer) Scans() int   { return w.scans }
func (w *Writer) Sockets() int { return len(w.entries) }

// write writes a frame, after what stands in w.frame.
func (w *Writer) write(kind byte, content []byte) error {
	w.frame = appendFrame(w.frame, kind, content)
	_, err := w.out.Write(w.frame)
	if err == nil {
		w.size += int64(len(w.frame))
	}
	w.frame = w.frame[:0]
	return err
}

// Begin begins a scan. What was taken of one that was not ended is dropped.
func (w *Writer) Begin() {
	w.scan++
	w.changed, w.rows, w.added = w.changed[:0], w.rows[:0], w.added[:0]
	clear(w.news)
}

// Take takes in a socket that the scan shows, as it was when the answer was got. One that is
// shown twice is as it was shown first.
func (w *Writer) Take(s *sock.Socket, got sock.Instant) {
	key := s.ID.Key()
	slot, known := w.slots[key]
	if known && w.entries[slot].scan == w.scan {
		return
	}
	if _, again := w.news[key]; again || len(w.added) > MaxSockets { // of which End complains
		return
	}
	if w.mask != nil {
		masked := *s
		w.mask.socket(&masked)
		s = &masked
	}
	var r row
	r.fill(s, got, w.text)
	if !known {
		w.news[key] = struct{}{}
		w.added = append(w.added, r)
		return
	}
	e := &w.entries[slot]
	e.scan = w.scan
	r.steady(&e.row, w.within)
	if r != e.row {
		w.changed, w.rows = append(w.changed, change{slot, int32(len(w.rows))}), append(w.rows, r)
	}
}

// text numbers a text, of which a recording has as much as it may.
func (w *Writer) text(s string) uint64 {
	if s == "" { // as most are
		return 0
	}
	return w.texts.number(s[:min(len(s), maxText)])
}

// End writes the scan, which was whole. After an error no other can be written.
func (w *Writer) End(s Scan) error {
	if s.Sent < w.last.Got || s.Got < s.Sent {
		return errors.New("the scan is older than the one before it")
	}
	removed := w.removed()
	if len(w.added)+len(w.entries) > MaxSockets {
		return fmt.Errorf("there are more than %d sockets, which no recording takes: a filter selects some of them", MaxSockets)
	}
	b := w.appendTimes(w.content[:0], &s)
	sockets := w.appendSockets(nil, removed)
	held := w.appendHolders(nil, &s)
	if max(len(w.texts.of), len(w.processes.of), len(w.sets.of)) > maxEntries {
		return fmt.Errorf("there were more than %d names or processes, which no recording takes", maxEntries)
	}
	b = w.appendNew(b)
	b = w.appendCounters(b, &s)
	b = append(append(b, sockets...), held...)
	w.content, w.last = b, s
	if err := w.pack(); err != nil {
		return err
	}
	w.scans++
	return nil
}

// pack writes what stands in w.content.
func (w *Writer) pack() error {
	if len(w.content) > maxContent {
		return fmt.Errorf("a scan of %d bytes is larger than a recording takes: a filter selects some of the sockets", len(w.content))
	}
	w.packed.Reset()
	w.packer.Reset(&w.packed)
	if _, err := w.packer.Write(w.content); err != nil {
		return err
	}
	if err := w.packer.Close(); err != nil {
		return err
	}
	return w.write(scanFrame, w.packed.Bytes())
}

// Close ends the recording, in which so many scans are missing because they failed.
func (w *Writer) Close(failed int) error {
	b := binary.AppendUvarint(nil, uint64(w.scans))
	return w.write(endFrame, binary.AppendUvarint(b, uint64(failed)))
}

// removed takes out what the scan did not show, and returns the slots, the last one first.
func (w *Writer) removed() (slots []int32) {
	for slot := len(w.entries) - 1; slot >= 0; slot-- {
		if w.entries[slot].scan != w.scan {
			slots = append(slots, int32(slot))
		}
	}
	w.remove(slots)
	for i := range w.changed {
		c := &w.changed[i]
		c.slot = w.slots[w.rows[c.row].key()]
	}
	slices.SortFunc(w.changed, func(a, b change) int { return cmp.Compare(a.slot, b.slot) })
	return slots
}

// appendTimes appends when the scan was: as differences to the last one.
func (w *Writer) appendTimes(b []byte, s *Scan) []byte {
	b = binary.AppendUvarint(b, uint64(s.Sent-w.last.Got))
	b = binary.AppendUvarint(b, uint64(s.Got-s.Sent))
	offset := s.Wall.UnixNano() - int64(s.Got)
	b = binary.AppendVarint(b, offset-w.offset)
	w.offset = offset
	return b
}

// appendSockets appends what becomes of the table, and changes it so: the slots that are
// removed; how many are added; which others are changed; which fields of these and of those;
// and by how much, field by field. What is added differs from what was added before it.
func (w *Writer) appendSockets(b []byte, removed []int32) []byte {
	b = binary.AppendUvarint(b, uint64(len(removed)))
	b = appendSlots(b, len(removed), func(i int) int32 { return removed[len(removed)-1-i] })
	slices.SortFunc(w.added, func(a, b row) int {
		return cmp.Or(cmp.Compare(a[netns], b[netns]), cmp.Compare(a[cookie], b[cookie]))
	})
	b = binary.AppendUvarint(b, uint64(len(w.added)))
	b = binary.AppendUvarint(b, uint64(len(w.changed)))
	b = appendSlots(b, len(w.changed), func(i int) int32 { return w.changed[i].slot })
	var before row
	differences := make([]row, 0, len(w.changed)+len(w.added))
	for i := range w.changed {
		c, r := w.changed[i], &w.rows[w.changed[i].row]
		differences = append(differences, r.minus(&w.entries[c.slot].row))
		w.entries[c.slot].row = *r
	}
	for i := range w.added {
		r := &w.added[i]
		differences = append(differences, r.minus(&before))
		before = *r
		w.slots[r.key()] = int32(len(w.entries))
		w.entries = append(w.entries, entry{row: *r, scan: w.scan})
	}
	for i := range differences {
		b = binary.AppendUvarint(b, differences[i].mask())
	}
	for f := range numFields {
		for i := range differences {
			if d := differences[i][f]; d != 0 {
				b = binary.AppendVarint(b, int64(d))
			}
		}
	}
	return b
}

// minus returns by how much the fields differ: of each, what is to be added.
func (r *row) minus(before *row) (d row) {
	for f := range d {
		d[f] = r[f] - before[f]
	}
	return d
}

// mask has a bit for each field that is not 0.
func (r *row) mask() (m uint64) {
	for f, v := range r {
		if v != 0 {
			m |= 1 << f
		}
	}
	return m
}

// appendSlots appends slots that rise, as differences.
func appendSlots(b []byte, n int, at func(i int) int32) []byte {
	next := int32(0)
	for i := range n {
		slot := at(i)
		b = binary.AppendUvarint(b, uint64(slot-next))
		next = slot + 1
	}
	return b
}
