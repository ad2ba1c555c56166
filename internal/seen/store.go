// Package seen keeps on disk since when sockets have been as they are, which
// groups of them fire, and what of the limits is used up, so that a restart
// neither forgets a leak nor acts early. It stores and decides nothing: whether a
// memory still is of the same connection is for its reader to test.
//
// A file serves one boot, and a sockdog in one network namespace. Within it the
// page cache outlives the process, and a power cut ends the boot; so nothing is
// fsynced. A file says the version of its format: one of version 1 is read and
// written anew, one of a newer sockdog is set aside.
package seen

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"slices"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/statedir"
)

const (
	fileName = "seen"

	asideSuffix = ".newer"

	magic   = "sockdog" // and a digit, the version
	version = '2'

	// slack is what a file may hold in vain before it is written anew.
	slack = 1 << 20
	// chunk is how many records go into one write.
	chunk = 512
)

// Store is an open store. It is not for concurrent use.
type Store struct {
	dir       *statedir.Dir
	origin    Origin
	file      *os.File
	header    header
	old       bool         // the file that was read last is of version 1
	size      int64        // of the header and the whole records after it; 0: not even the header
	compactAt int64        // size from which the file is written anew
	now       sock.Instant // the latest instant in any record
	buf       []byte
}

// Origin is where what a store holds is true.
type Origin struct {
	Boot        BootID
	Netns       uint32 // inode of the network namespace
	NetnsCookie uint64 // its SO_NETNS_COOKIE, which no other ever has in this boot
}

// header is what a file begins with.
type header [recordSize]byte

// Loaded is what a store held.
type Loaded struct {
	Memories []sock.Memory
	Spent    []sock.Spent
	Groups   []sock.Group
	Damaged  int      // what was torn, had a wrong checksum or lay in the future, and is lost: records, the groups, a header
	SetAside []string // names of files that a newer sockdog wrote, as they are called now
}

// Open opens the store of an origin in dir, and loads what it holds; what another
// boot or namespace left there is dropped.
func Open(dir *statedir.Dir, origin Origin, now sock.Instant) (*Store, Loaded, error) {
	s := newStore(dir, origin, now)
	loaded, err := s.open()
	if err != nil {
		s.file.Close() // nil is closed, too
		return nil, Loaded{}, fmt.Errorf("first-seen store: %w", err)
	}
	return s, loaded, nil
}

// Read loads what a store holds, as Open does, beside the process that writes it.
func Read(dir *statedir.Dir, origin Origin, now sock.Instant) (Loaded, error) {
	f, err := dir.OpenFile(fileName, os.O_RDONLY)
	if err != nil {
		return Loaded{}, fmt.Errorf("first-seen store: %w", err)
	}
	defer f.Close()
	loaded, _, err := newStore(dir, origin, now).load(f)
	if err != nil {
		return Loaded{}, fmt.Errorf("first-seen store: %w", err)
	}
	return loaded, nil
}

func newStore(dir *statedir.Dir, origin Origin, now sock.Instant) *Store {
	return &Store{dir: dir, origin: origin, header: origin.header(version), now: now, buf: make([]byte, 0, chunk*recordSize)}
}

// headerSum is where the checksum of a header stands.
const headerSum = recordSize - 4

func (o *Origin) header(version byte) (h header) {
	copy(h[:], magic)
	h[len(magic)] = version
	copy(h[8:], o.Boot[:])
	binary.LittleEndian.PutUint64(h[24:], o.NetnsCookie)
	binary.LittleEndian.PutUint32(h[headerSum:], crc32.Checksum(h[:headerSum], castagnoli()))
	return h
}

// sum is the checksum of a header, which those of its records begin with.
func (h *header) sum() uint32 { return binary.LittleEndian.Uint32(h[headerSum:]) }

// sealed reports whether it is the header of some store.
func (h *header) sealed() bool {
	return string(h[:len(magic)]) == magic && h.sum() == crc32.Checksum(h[:headerSum], castagnoli())
}

// errNewer says that a file is to be set aside.
var errNewer = errors.New("a newer sockdog wrote it")

// newer reports whether a newer sockdog wrote a file that begins like that.
func newer(b []byte) bool {
	return len(b) > len(magic) && string(b[:len(magic)]) == magic && b[len(magic)] > version && b[len(magic)] <= '9'
}

// setAside moves away what a newer sockdog wrote, which may want it again, and
// returns its new names.
func (s *Store) setAside() (names []string, err error) {
	for _, name := range []string{fileName, groupsName} {
		f, err := s.dir.OpenFile(name, os.O_RDONLY)
		if err != nil {
			continue // there is none, or who opens it next says why
		}
		begin := make([]byte, len(magic)+1)
		_, err = f.ReadAt(begin, 0)
		f.Close()
		if err != nil || !newer(begin) {
			continue
		}
		if err := s.dir.Rename(name, name+asideSuffix); err != nil {
			return names, err
		}
		names = append(names, name+asideSuffix)
	}
	return names, nil
}

func (s *Store) open() (Loaded, error) {
	var err error
	if s.file, err = s.dir.OpenFile(fileName, os.O_RDWR|os.O_CREATE); err != nil {
		return Loaded{}, err
	}
	aside, err := s.setAside()
	if err == nil && slices.Contains(aside, fileName+asideSuffix) {
		s.file.Close()
		s.file, err = s.dir.OpenFile(fileName, os.O_RDWR|os.O_CREATE)
	}
	if err != nil {
		return Loaded{}, err
	}
	loaded, size, err := s.load(s.file)
	if err != nil {
		return Loaded{}, err
	}
	loaded.SetAside = aside
	if err := s.file.Truncate(size); err != nil {
		return loaded, err
	}
	s.size = size
	s.compactAt = 2*int64(len(loaded.Memories)+len(loaded.Spent))*recordSize + slack
	if loaded.Damaged > 0 || s.old {
		// Where it fails, the next Open says the same again. Nothing can follow the
		// records of another version.
		if err := s.compact(); s.old {
			return loaded, err
		}
	}
	return loaded, nil
}

// load reads the records of f that are alive, and returns the size of the part
// that later records may follow.
func (s *Store) load(f io.ReaderAt) (loaded Loaded, size int64, err error) {
	last := make(lastOf)
	future := 0
	size, damaged, err := s.each(f, func(at int64, b []byte) {
		if newest(b) > s.now {
			future++
		}
		last.note(at, b, s.now)
	})
	if err != nil {
		return Loaded{}, 0, err
	}
	loaded.Damaged = damaged + future
	loaded.Memories = make([]sock.Memory, 0, len(last))
	_, _, err = s.each(f, func(at int64, b []byte) {
		switch {
		case !last.alive(at, b, s.now):
		case b[4] == kindMemory:
			loaded.Memories = append(loaded.Memories, decodeMemory(b))
		case b[4] == kindSpent:
			loaded.Spent = append(loaded.Spent, decodeSpent(b))
		}
	})
	if err != nil {
		return Loaded{}, 0, err
	}
	var damagedGroups bool
	if loaded.Groups, damagedGroups = s.loadGroups(); damagedGroups {
		loaded.Damaged++
	}
	return loaded, size, nil
}

// each calls f for each record of the file that is whole, with the place where
// it stands. Size is that of the header and all whole records, good or bad.
func (s *Store) each(file io.ReaderAt, f func(at int64, b []byte)) (size int64, damaged int, err error) {
	r := bufio.NewReaderSize(io.NewSectionReader(file, 0, 1<<62), 64<<10)
	var h header
	n, err := io.ReadFull(r, h[:])
	s.old = h == s.origin.header('1')
	switch {
	case unlessEOF(err) != nil:
		return 0, 0, err
	case n == 0:
		return 0, 0, nil
	case h == s.header, s.old:
	case newer(h[:n]):
		return 0, 0, errNewer
	case h.sealed():
		return 0, 0, nil // what another boot or namespace left
	default:
		return 0, 1, nil
	}
	b := make([]byte, recordSize)
	for at := int64(recordSize); ; at += recordSize {
		n, err := io.ReadFull(r, b)
		switch {
		case err != nil:
			if n > 0 {
				damaged++ // torn off by the end of a process or of the disk
			}
			return at, damaged, unlessEOF(err)
		case !sealed(b, h.sum()):
			damaged++
			continue
		case s.old:
			upgrade(b, s.origin.Netns)
		}
		f(at, b)
	}
}

func unlessEOF(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

// lastOf says where the last memory of each socket stands that is not forgotten.
type lastOf map[sock.Key]int64

func (last lastOf) note(at int64, b []byte, now sock.Instant) {
	switch b[4] {
	case kindMemory:
		if newest(b) <= now {
			last[decodeKey(b)] = at
		} else {
			delete(last, decodeKey(b)) // from the future: of this socket nothing is certain
		}
	case kindForget:
		delete(last, decodeKey(b))
	}
}

// alive says whether the record at this place still counts. One of an unknown
// kind, from a newer sockdog, does not.
func (last lastOf) alive(at int64, b []byte, now sock.Instant) bool {
	switch b[4] {
	case kindMemory:
		place, known := last[decodeKey(b)]
		return known && place == at
	case kindSpent:
		spent := decodeSpent(b)
		return spent.At <= now && now < spent.Expires
	default:
		return false
	}
}

// Put records memories, each in place of what was known of its socket.
func (s *Store) Put(memories []sock.Memory) error {
	return s.append(len(memories), func(b []byte, i int) { encodeMemory(b, &memories[i]) })
}

// Forget drops what is known of the sockets.
func (s *Store) Forget(keys []sock.Key) error {
	return s.append(len(keys), func(b []byte, i int) { encodeKey(b, kindForget, keys[i]) })
}

// Spend records what is used up of the limits.
func (s *Store) Spend(spent []sock.Spent) error {
	return s.append(len(spent), func(b []byte, i int) { encodeSpent(b, &spent[i]) })
}

// Close closes the store.
func (s *Store) Close() error { return s.file.Close() }

// append writes n records and, where the file has grown too large for what is
// alive in it, writes it anew.
func (s *Store) append(n int, encode func(b []byte, i int)) error {
	gone := s.follow()
	if gone != nil && statedir.Nameless(s.file) {
		return fmt.Errorf("first-seen store: %w", gone)
	}
	if err := errors.Join(gone, s.write(n, encode)); err != nil {
		return fmt.Errorf("first-seen store: %w", err)
	}
	if s.size <= s.compactAt {
		return nil
	}
	if err := s.compact(); err != nil {
		s.compactAt = 2 * s.size // what is written stands; try again later
		return fmt.Errorf("first-seen store: compact: %w", err)
	}
	return nil
}

// follow puts the file back in its place where somebody removed it.
func (s *Store) follow() error {
	if err := s.dir.Check(); err != nil || s.dir.Holds(fileName, s.file) {
		return err
	}
	return s.compact()
}

// write adds n records to the file. What an error leaves of a chunk is cut off,
// or else written over by the next.
func (s *Store) write(n int, encode func(b []byte, i int)) error {
	for i := 0; i < n; {
		s.buf = s.buf[:0]
		if s.size == 0 {
			s.buf = append(s.buf, s.header[:]...)
		}
		for ; i < n && len(s.buf) < cap(s.buf); i++ {
			at := len(s.buf)
			s.buf = s.buf[:at+recordSize]
			clear(s.buf[at:])
			encode(s.buf[at:], i)
			s.now = max(s.now, newest(s.buf[at:]))
			seal(s.buf[at:], s.header.sum())
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
	last := make(lastOf)
	if _, _, err := s.each(s.file, func(at int64, b []byte) { last.note(at, b, s.now) }); err != nil {
		return err
	}
	size := int64(recordSize)
	f, err := s.dir.Replace(fileName, func(f *os.File) error {
		w := bufio.NewWriterSize(f, 64<<10) // keeps its first error for Flush
		w.Write(s.header[:])
		_, _, err := s.each(s.file, func(at int64, b []byte) {
			if last.alive(at, b, s.now) {
				seal(b, s.header.sum())
				w.Write(b)
				size += recordSize
			}
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
