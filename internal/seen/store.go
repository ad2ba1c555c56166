// Package seen keeps on disk since when sockets have been as they are, which
// groups of them fire, what of the limits is used up, and which rules have stopped
// themselves, so that a restart neither forgets a leak nor acts early. It stores and decides nothing: whether a
// memory still is of the same connection is for its reader to test.
//
// All but the last serves one boot, and a sockdog in one network namespace. Within it the
// page cache outlives the process, and a power cut ends the boot; so nothing is
// fsynced. A file says the version of its format: one of another is set aside.
package seen

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/statedir"
)

const (
	fileName = "seen"

	magic   = "sockdog" // and a digit, the version
	version = '4'

	// slack is what a file may hold in vain before it is written anew.
	slack = 1 << 20
	// chunk is how many records go into one write.
	chunk = 512
)

// Store is an open store. It is not for concurrent use.
type Store struct {
	dir       *statedir.Dir
	file      *os.File
	header    header
	size      int64        // of the header and the whole records after it; 0: not even the header
	compactAt int64        // size from which the file is written anew
	now       sock.Instant // the latest instant in any record
	zero      time.Time    // when instants began to count, by the clock of now
	buf       []byte
}

// header is what a file begins with.
type header [recordSize]byte

// Loaded is what a store held.
type Loaded struct {
	Memories []sock.Memory
	Spent    []sock.Spent
	Groups   []sock.Group
	Stops    []sock.RuleStop
	Damaged  int      // what was torn, had a wrong checksum or lay in the future, and is lost: records, the groups, the stopped rules, a header
	SetAside []string // names of files that another version of sockdog wrote, as they are called now
}

// Open opens the store of an origin in dir, and loads what it holds; what another
// boot or namespace left there is dropped.
func Open(dir *statedir.Dir, origin sock.Origin, now sock.Instant) (*Store, Loaded, error) {
	s := newStore(dir, origin, now)
	loaded, err := s.open()
	if err != nil {
		s.file.Close() // nil is closed, too
		return nil, Loaded{}, err
	}
	return s, loaded, nil
}

// Read loads what a store holds, as Open does, beside the process that writes it.
func Read(dir *statedir.Dir, origin sock.Origin, now sock.Instant) (Loaded, error) {
	f, err := dir.OpenFile(fileName, os.O_RDONLY)
	if err != nil {
		return Loaded{}, err
	}
	defer f.Close()
	loaded, _, err := newStore(dir, origin, now).load(f)
	return loaded, err
}

func newStore(dir *statedir.Dir, origin sock.Origin, now sock.Instant) *Store {
	return &Store{dir: dir, header: headerOf(&origin), now: now, zero: time.Now().Add(-time.Duration(now)), buf: make([]byte, 0, chunk*recordSize)}
}

// headerSum is where the checksum of a header stands.
const headerSum = recordSize - 4

func headerOf(o *sock.Origin) (h header) {
	n := copy(h[:], magic+string(version)+o.BootID)
	binary.LittleEndian.PutUint64(h[n:], o.NetnsCookie)
	binary.LittleEndian.PutUint32(h[headerSum:], crc32.Checksum(h[:headerSum], castagnoli()))
	return h
}

// sum is the checksum of a header, which those of its records begin with.
func (h *header) sum() uint32 { return binary.LittleEndian.Uint32(h[headerSum:]) }

// sealed reports whether it is the header of some store.
func (h *header) sealed() bool {
	return string(h[:len(magic)]) == magic && h.sum() == crc32.Checksum(h[:headerSum], castagnoli())
}

// otherVersion is an error: the digit of another version that a file begins with.
type otherVersion byte

func (otherVersion) Error() string { return "another version of sockdog wrote the first-seen store" }

// versionOf returns the version of a file that begins like that; 0: it is no store.
func versionOf(b []byte) byte {
	if digit, is := bytes.CutPrefix(b, []byte(magic)); is && len(digit) > 0 && '0' < digit[0] && digit[0] <= '9' {
		return digit[0]
	}
	return 0
}

// setAside moves away what another version of sockdog wrote, which may want it again,
// returns its new names, and begins a new file.
func (s *Store) setAside(v otherVersion) (names []string, err error) {
	for _, name := range []string{fileName, groupsName} {
		aside := name + ".v" + string(rune(v))
		if err := s.dir.Rename(name, aside); err == nil {
			names = append(names, aside)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	s.file.Close()
	s.file, err = s.dir.OpenFile(fileName, os.O_RDWR|os.O_CREATE)
	return names, err
}

func (s *Store) open() (loaded Loaded, err error) {
	if s.file, err = s.dir.OpenFile(fileName, os.O_RDWR|os.O_CREATE); err != nil {
		return Loaded{}, err
	}
	loaded, size, err := s.load(s.file)
	if other := otherVersion(0); errors.As(err, &other) {
		loaded.SetAside, err = s.setAside(other)
	}
	if err != nil {
		return Loaded{}, err
	}
	if err := s.file.Truncate(size); err != nil {
		return loaded, err
	}
	s.size = size
	s.compactAt = 2*int64(len(loaded.Memories)+len(loaded.Spent))*recordSize + slack
	if loaded.Damaged > 0 {
		_ = s.compact() // where it fails, the next Open says the same again
	}
	return loaded, nil
}

// load reads the records of a file that count, and the groups, and returns the size of
// the part that later records may follow.
func (s *Store) load(f io.ReaderAt) (loaded Loaded, size int64, err error) {
	size, loaded.Damaged, err = s.counting(f, func(r *record, sockets int) {
		if r.kind == kindSpent {
			loaded.Spent = append(loaded.Spent, r.spent)
			return
		}
		if loaded.Memories == nil {
			loaded.Memories = make([]sock.Memory, 0, sockets)
		}
		loaded.Memories = append(loaded.Memories, r.memory.observed())
	})
	if err != nil {
		return Loaded{}, 0, err
	}
	if loaded.Groups, err = load(s.dir, groupsName, mostGroups, s.parseGroups); err != nil {
		loaded.Damaged++
	}
	if loaded.Stops, err = load(s.dir, stopsName, mostStops, s.parseStops); err != nil {
		loaded.Damaged++
	}
	return loaded, size, nil
}

// counting calls f for each record that counts still, and says of how many sockets
// there is one: the last memory of each that is not forgotten, and what is spent of a
// limit. The rest is as for each; what lies in the future is damaged, and of its
// socket nothing is certain.
func (s *Store) counting(file io.ReaderAt, f func(r *record, sockets int)) (size int64, damaged int, err error) {
	last := make(map[sock.Key]int64) // where the last memory stands
	future := 0
	size, damaged, err = s.each(file, func(at int64, r *record) {
		switch {
		case r.kind == kindForget:
			delete(last, r.memory.Key)
		case r.kind == kindSpent && r.spent.At > s.now:
			future++
		case r.kind == kindMemory && r.memory.newest() > s.now:
			future++
			delete(last, r.memory.Key)
		case r.kind == kindMemory:
			last[r.memory.Key] = at
		}
	})
	if err != nil {
		return 0, 0, err
	}
	_, _, err = s.each(file, func(at int64, r *record) {
		if r.kind == kindMemory && last[r.memory.Key] == at || r.kind == kindSpent && r.spent.At <= s.now && s.now < r.spent.Expires {
			f(r, len(last))
		}
	})
	return size, damaged + future, err
}

// each calls f for each record of the file that is whole, with the place where
// it stands. Size is that of the header and all whole records, good or bad.
func (s *Store) each(file io.ReaderAt, f func(at int64, r *record)) (size int64, damaged int, err error) {
	from := bufio.NewReaderSize(io.NewSectionReader(file, 0, 1<<62), 64<<10)
	var h header
	n, err := io.ReadFull(from, h[:])
	switch {
	case unlessEOF(err) != nil:
		return 0, 0, err
	case n == 0:
		return 0, 0, nil
	case h == s.header:
	case versionOf(h[:n]) != 0 && h[len(magic)] != version:
		return 0, 0, otherVersion(h[len(magic)])
	case h.sealed():
		return 0, 0, nil // what another boot or namespace left
	default:
		return 0, 1, nil
	}
	r := record{raw: make([]byte, recordSize)}
	for at := int64(recordSize); ; at += recordSize {
		n, err := io.ReadFull(from, r.raw)
		switch {
		case err != nil:
			if n > 0 {
				damaged++ // torn off by the end of a process or of the disk
			}
			return at, damaged, unlessEOF(err)
		case !r.decode(h.sum()):
			damaged++
		default:
			f(at, &r)
		}
	}
}

func unlessEOF(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

// Put records memories, each in place of what was known of its socket.
func (s *Store) Put(memories []sock.Memory) error {
	return s.append(len(memories), kindMemory, func(i int) (any, sock.Instant) {
		m := memoryOf(&memories[i])
		return m, m.newest()
	})
}

// Forget drops what is known of the sockets.
func (s *Store) Forget(keys []sock.Key) error {
	return s.append(len(keys), kindForget, func(i int) (any, sock.Instant) { return &keys[i], 0 })
}

// Spend records what is used up of the limits.
func (s *Store) Spend(spent []sock.Spent) error {
	return s.append(len(spent), kindSpent, func(i int) (any, sock.Instant) { return &spent[i], spent[i].At })
}

// Close closes the store.
func (s *Store) Close() error { return s.file.Close() }

// append writes n records and, where the file has grown too large for what is
// alive in it, writes it anew. Value returns the i-th, and when the newest of it was.
func (s *Store) append(n int, kind uint8, value func(i int) (any, sock.Instant)) error {
	there, err := s.dir.Holds(fileName, s.file)
	if err == nil && !there { // somebody removed it
		err = s.compact()
	}
	if err != nil && statedir.Nameless(s.file) {
		return err
	}
	if err := errors.Join(err, s.write(n, kind, value)); err != nil {
		return err
	}
	if s.size <= s.compactAt {
		return nil
	}
	if err := s.compact(); err != nil {
		s.compactAt = 2 * s.size // what is written stands; try again later
		return fmt.Errorf("write it anew without what is forgotten: %w", err)
	}
	return nil
}

// write adds n records to the file. What an error leaves of a chunk is cut off,
// or else written over by the next.
func (s *Store) write(n int, kind uint8, value func(i int) (any, sock.Instant)) error {
	for i := 0; i < n; {
		s.buf = s.buf[:0]
		if s.size == 0 {
			s.buf = append(s.buf, s.header[:]...)
		}
		for ; i < n && len(s.buf) < cap(s.buf); i++ {
			at := len(s.buf)
			s.buf = s.buf[:at+recordSize]
			what, newest := value(i)
			encode(s.buf[at:], s.header.sum(), kind, what)
			s.now = max(s.now, newest)
		}
		if _, err := s.file.WriteAt(s.buf, s.size); err != nil {
			return errors.Join(err, s.file.Truncate(s.size))
		}
		s.size += int64(len(s.buf))
	}
	return nil
}

// compact writes what is alive to a new file and puts it in the old one's
// place; until then the old one stands.
func (s *Store) compact() error {
	size := int64(recordSize)
	f, err := s.dir.Replace(fileName, 0, func(f *os.File) error {
		w := bufio.NewWriterSize(f, 64<<10) // keeps its first error for Flush
		w.Write(s.header[:])
		_, _, err := s.counting(s.file, func(r *record, _ int) {
			w.Write(r.raw)
			size += recordSize
		})
		return errors.Join(err, w.Flush())
	})
	if err != nil {
		return err
	}
	s.file.Close()
	s.file, s.size, s.compactAt = f, size, 2*size+slack
	return nil
}
