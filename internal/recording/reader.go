package recording

import (
	"bytes"
	"compress/flate"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Reader reads a recording, scan by scan. What it holds is as the last scan showed it.
type Reader struct {
	Header Header
	// Failed is how many scans failed while the recording was made, once Next has returned io.EOF.
	Failed int

	in      io.Reader
	offset  int64 // of the next frame
	scans   int
	ended   error // what Next returns from now on
	scan    Scan
	ahead   *parser // what is left to read of the next scan; nil: it was not begun
	next    Scan    // as far as that was read
	began   int64   // where its frame begins
	wall    int64   // the wall clock less the instants
	content []byte
	raw     []byte
	plain   io.ReadCloser

	table
	texts     []string
	processes []sock.Holder
	sets      [][]sock.Holder
	settled   map[*sock.Owner]bool // as Scan.Settled, of all processes
	byInode   map[uint32]uint32    // the set that holds a socket; nil: to be made
}

// NewReader begins to read a recording. The error is ErrNone, Newer, a *Damage, or one of
// reading.
func NewReader(in io.Reader) (*Reader, error) {
	r := &Reader{
		table: newTable(), texts: make([]string, 1), processes: make([]sock.Holder, 1), sets: make([][]sock.Holder, 1),
		settled: make(map[*sock.Owner]bool), plain: flate.NewReader(nil),
	}
	r.in = &counting{in, &r.offset}
	if err := readVersion(r.in); err != nil {
		return nil, err
	}
	kind, err := r.frame()
	if err != nil {
		return nil, err
	}
	if kind != headerFrame {
		return nil, &Damage{Offset: r.offset, Err: errors.New("it has no header")}
	}
	if r.Header, err = parseHeader(r.content); err != nil {
		return nil, &Damage{Offset: r.offset, Err: err}
	}
	return r, nil
}

// counting counts what is read.
type counting struct {
	io.Reader
	n *int64
}

func (c *counting) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	*c.n += int64(n)
	return n, err
}

// frame reads the next frame. What is wrong with it is a Damage.
func (r *Reader) frame() (kind byte, err error) {
	r.began = r.offset
	kind, r.content, err = readFrame(r.in, r.content)
	switch {
	case err == nil:
		return kind, nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return 0, &Damage{Scans: r.scans, Offset: r.began, Cut: true, Err: io.ErrUnexpectedEOF}
	case errors.Is(err, errChecksum), errors.Is(err, errTooLarge):
		return 0, r.damage(err)
	default:
		return 0, err
	}
}

// Ahead returns when the answer of the next scan was in, before that is read: what the last one
// showed is there still. Its errors are those of Next.
func (r *Reader) Ahead() (sock.Instant, error) {
	if r.ended == nil && r.ahead == nil {
		r.ended = r.open()
	}
	if r.ended != nil {
		return sock.Never, r.ended
	}
	return r.next.Got, nil
}

// Next reads the next scan, which is valid until the next call. io.EOF: that was the last one.
// After an error there are no sockets, and what was read before a *Damage was right.
func (r *Reader) Next() (*Scan, error) {
	if _, err := r.Ahead(); err != nil {
		r.table = newTable()
		return nil, err
	}
	p := r.ahead
	r.ahead, r.scan = nil, r.next
	r.readNew(p)
	r.readCounters(p)
	r.readSockets(p)
	r.readHolders(p)
	if err := p.done(); err != nil {
		r.ended, r.table = r.damage(err), newTable()
		return nil, r.ended
	}
	r.scans++
	return &r.scan, nil
}

// damage is what is wrong with the frame that is being read.
func (r *Reader) damage(err error) error { return &Damage{Scans: r.scans, Offset: r.began, Err: err} }

// open reads the next frame, and of a scan when it was.
func (r *Reader) open() error {
	kind, err := r.frame()
	if err != nil {
		return err
	}
	switch kind {
	case scanFrame:
		err = r.unpack()
	case endFrame:
		if err = r.end(); err == nil {
			return io.EOF
		}
	default:
		err = fmt.Errorf("a frame of an unknown kind, %q", kind)
	}
	if err != nil {
		return r.damage(err)
	}
	return nil
}

// end reads the end, after which there is nothing.
func (r *Reader) end() error {
	p := &parser{b: r.content}
	scans, failed := p.number(math.MaxInt32), p.number(math.MaxInt32)
	r.Failed = int(failed)
	var more [1]byte
	switch n, err := io.ReadFull(r.in, more[:]); {
	case p.done() != nil:
		return p.done()
	case scans != uint64(r.scans):
		return fmt.Errorf("it ends after %d scans, and says %d", r.scans, scans)
	case n > 0:
		return errors.New("something follows its end")
	case err != nil && err != io.EOF:
		return err
	}
	return nil
}

var (
	errTooLarge = errors.New("larger than a recording may be")
	errContent  = errors.New("it makes no sense")
)

// unpack begins with the content of a scan.
func (r *Reader) unpack() error {
	if err := r.plain.(flate.Resetter).Reset(bytes.NewReader(r.content), nil); err != nil {
		return err
	}
	var err error
	if r.raw, err = appendAll(r.raw[:0], io.LimitReader(r.plain, maxContent+1)); err != nil {
		return err
	}
	if len(r.raw) > maxContent {
		return errTooLarge
	}
	p := &parser{b: r.raw}
	r.readTimes(p)
	r.ahead = p
	return p.err
}

// readTimes reads when the next scan was. Times that go backwards are no instants.
func (r *Reader) readTimes(p *parser) {
	sent := r.scan.Got.Add(time.Duration(p.number(math.MaxInt64)))
	got := sent.Add(time.Duration(p.number(math.MaxInt64)))
	if sent < r.scan.Got || got < sent || got > farthest {
		p.fail()
		return
	}
	r.wall += p.signed()
	r.next = r.scan // what is not told anew is as it was
	r.next.Sent, r.next.Got, r.next.Wall = sent, got, time.Unix(0, r.wall+int64(got))
}

// farthest is later than any instant of a scan: beyond it, durations could overflow.
const farthest = sock.Instant(math.MaxInt64 / 4)

// readSockets takes in what became of the table.
func (r *Reader) readSockets(p *parser) {
	removed := r.readSlots(p, p.count(len(r.entries)), len(r.entries))
	for i, j := 0, len(removed)-1; i < j; i, j = i+1, j-1 {
		removed[i], removed[j] = removed[j], removed[i]
	}
	r.remove(removed)
	added := p.count(MaxSockets - len(r.entries))
	known := len(r.entries)
	slots := r.readSlots(p, p.count(known), known)
	for i := range added {
		if p.err != nil {
			return
		}
		r.entries = append(r.entries, entry{})
		slots = append(slots, int32(known+i))
	}
	r.byInode = nil
	masks := make([]uint64, len(slots))
	for i := range masks {
		if masks[i] = p.number(1<<numFields - 1); i < len(slots)-added && masks[i]&(1<<netns|1<<cookie) != 0 {
			p.fail() // it would be another socket
		}
	}
	for f := range numFields {
		for i, slot := range slots {
			e := &r.entries[slot]
			if i > len(slots)-added {
				e.row[f] = r.entries[slot-1].row[f]
			}
			if masks[i]&(1<<f) != 0 {
				e.row[f] += uint64(p.signed())
			}
		}
		if p.err != nil {
			return
		}
	}
	r.admit(p, slots, known)
}

// admit checks what was read of sockets, and enters the keys of those from a slot on.
func (r *Reader) admit(p *parser, slots []int32, from int) {
	for _, slot := range slots {
		row := &r.entries[slot].row
		if row.check(len(r.texts)) != nil {
			p.fail()
			return
		}
		if int(slot) < from {
			continue
		}
		if _, twice := r.slots[row.key()]; twice {
			p.fail()
			return
		}
		r.slots[row.key()] = slot
	}
}

// readSlots reads n slots that rise, all below a limit.
func (r *Reader) readSlots(p *parser, n, below int) []int32 {
	if n > len(p.b) || p.err != nil {
		p.fail()
		return nil
	}
	slots := make([]int32, n)
	next := uint64(0)
	for i := range slots {
		slot := next + p.number(math.MaxInt32)
		if slot >= uint64(below) {
			p.fail()
		}
		if p.err != nil {
			return nil
		}
		slots[i], next = int32(slot), slot+1
	}
	return slots
}

// Len is how many sockets the last scan showed.
func (r *Reader) Len() int { return len(r.entries) }

// Scans is how many scans were read.
func (r *Reader) Scans() int { return r.scans }

// Sockets yields the sockets that the last scan showed in those states, as of an instant until
// which nothing has happened to them. Each is valid until the next.
func (r *Reader) Sockets(states ssfilter.StateSet, at sock.Instant) iter.Seq[*sock.Socket] {
	return func(yield func(*sock.Socket) bool) {
		var s sock.Socket
		for i := range r.entries {
			e := &r.entries[i]
			if !states.Has(ssfilter.State(e.row[state])) {
				continue
			}
			if e.socket(&s, at, r.texts); !yield(&s) {
				return
			}
		}
	}
}

// Socket returns the one of a key, likewise, and reports whether the last scan showed it.
func (r *Reader) Socket(key sock.Key, at sock.Instant) (s sock.Socket, shown bool) {
	slot, shown := r.slots[key]
	if shown {
		r.entries[slot].socket(&s, at, r.texts)
	}
	return s, shown
}
