// Package seen keeps on disk since when sockets have been as they are, which
// groups of them fire, and what of the limits is used up, so that a restart
// neither forgets a leak nor acts early. It stores and decides nothing: whether a
// memory still is of the same connection is for its reader to test.
//
// A file serves one boot of one network namespace. Within it the page cache
// outlives the process, and a power cut ends the boot; so nothing is fsynced.
package seen

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/statedir"
)

const (
	fileName = "seen"
	tempName = "seen.new"

	magic = "sockdog1"

	// slack is what a file may hold in vain before it is written anew.
	slack = 1 << 20
	// chunk is how many records go into one write.
	chunk = 512
)

// Store is an open store. It is not for concurrent use.
type Store struct {
	dir       *statedir.Dir
	file      *os.File
	header    [recordSize]byte
	size      int64        // of the header and the whole records after it; 0: not even the header
	compactAt int64        // size from which the file is written anew
	now       sock.Instant // the latest instant in any record
	buf       []byte
}

// Loaded is what a store held.
type Loaded struct {
	Memories []sock.Memory
	Spent    []sock.Spent
	Groups   []sock.Group
	Damaged  int // what was torn, had a wrong checksum or lay in the future, and is lost: records, the groups, a header
}

// Open opens the store of one boot and one network namespace (its
// SO_NETNS_COOKIE) in dir, and loads what it holds; what another boot or
// namespace left there is dropped.
func Open(dir *statedir.Dir, boot BootID, netns uint64, now sock.Instant) (*Store, Loaded, error) {
	s := newStore(dir, boot, netns, now)
	loaded, err := s.open()
	if err != nil {
		s.file.Close() // nil is closed, too
		return nil, Loaded{}, fmt.Errorf("first-seen store: %w", err)
	}
	return s, loaded, nil
}

// Read loads what a store holds, as Open does, beside the process that writes it.
func Read(dir *statedir.Dir, boot BootID, netns uint64, now sock.Instant) (Loaded, error) {
	f, err := dir.OpenFile(fileName, os.O_RDONLY)
	if err != nil {
		return Loaded{}, fmt.Errorf("first-seen store: %w", err)
	}
	defer f.Close()
	loaded, _, err := newStore(dir, boot, netns, now).load(f)
	if err != nil {
		return Loaded{}, fmt.Errorf("first-seen store: %w", err)
	}
	return loaded, nil
}

func newStore(dir *statedir.Dir, boot BootID, netns uint64, now sock.Instant) *Store {
	s := &Store{dir: dir, now: now, buf: make([]byte, 0, chunk*recordSize)}
	copy(s.header[:], magic)
	copy(s.header[8:], boot[:])
	binary.LittleEndian.PutUint64(s.header[24:], netns)
	binary.LittleEndian.PutUint32(s.header[headerSum:], crc32.Checksum(s.header[:headerSum], castagnoli))
	return s
}

// headerSum is where the checksum of a header stands.
const headerSum = recordSize - 4

// sealedHeader reports whether b is the header of some store.
func sealedHeader(b []byte) bool {
	return string(b[:len(magic)]) == magic && binary.LittleEndian.Uint32(b[headerSum:]) == crc32.Checksum(b[:headerSum], castagnoli)
}

func (s *Store) open() (Loaded, error) {
	var err error
	if s.file, err = s.dir.OpenFile(fileName, os.O_RDWR|os.O_CREATE); err != nil {
		return Loaded{}, err
	}
	loaded, size, err := s.load(s.file)
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
	b := make([]byte, recordSize)
	switch n, err := io.ReadFull(r, b); {
	case unlessEOF(err) != nil:
		return 0, 0, err
	case n == 0, sealedHeader(b) && [recordSize]byte(b) != s.header:
		return 0, 0, nil // nothing yet, or what another boot or namespace left
	case [recordSize]byte(b) != s.header:
		return 0, 1, nil
	}
	seed := s.seed()
	for at := int64(recordSize); ; at += recordSize {
		switch n, err := io.ReadFull(r, b); {
		case err != nil:
			if n > 0 {
				damaged++ // torn off by the end of a process or of the disk
			}
			return at, damaged, unlessEOF(err)
		case sealed(b, seed):
			f(at, b)
		default:
			damaged++
		}
	}
}

func unlessEOF(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

// lastOf says where the last track of each cookie stands that is not forgotten.
type lastOf map[uint64]int64

func (last lastOf) note(at int64, b []byte, now sock.Instant) {
	switch b[4] {
	case kindMemory:
		if cookie := decodeMemory(b).Cookie; newest(b) <= now {
			last[cookie] = at
		} else {
			delete(last, cookie) // from the future: of this socket nothing is certain
		}
	case kindForget:
		delete(last, decodeForget(b))
	}
}

// alive says whether the record at this place still counts. One of an unknown
// kind, from a newer sockdog, does not.
func (last lastOf) alive(at int64, b []byte, now sock.Instant) bool {
	switch b[4] {
	case kindMemory:
		place, known := last[decodeMemory(b).Cookie]
		return known && place == at
	case kindSpent:
		spent := decodeSpent(b)
		return spent.At <= now && now < spent.Expires
	default:
		return false
	}
}

// seed is what the checksums of records begin with.
func (s *Store) seed() uint32 { return binary.LittleEndian.Uint32(s.header[headerSum:]) }

// Put records memories, each in place of what was known of its cookie.
func (s *Store) Put(memories []sock.Memory) error {
	for i := range memories {
		s.now = max(s.now, newestOf(&memories[i]))
	}
	return s.append(len(memories), func(b []byte, i int) { encodeMemory(b, &memories[i]) })
}

// Forget drops what is known of the cookies.
func (s *Store) Forget(cookies []uint64) error {
	return s.append(len(cookies), func(b []byte, i int) { encodeForget(b, cookies[i]) })
}

// Spend records what is used up of the limits.
func (s *Store) Spend(spent []sock.Spent) error {
	for i := range spent {
		s.now = max(s.now, spent[i].At)
	}
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
	seed := s.seed()
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
			seal(s.buf[at:], seed)
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
	f, err := s.dir.Create(tempName, 0)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 64<<10) // keeps its first error for Flush
	w.Write(s.header[:])
	size := int64(recordSize)
	_, _, err = s.each(s.file, func(at int64, b []byte) {
		if last.alive(at, b, s.now) {
			w.Write(b)
			size += recordSize
		}
	})
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = s.dir.Rename(tempName, fileName)
	}
	if err != nil {
		f.Close()
		s.dir.Remove(tempName)
		return err
	}
	s.file.Close()
	s.file, s.size, s.compactAt = f, size, 2*size+slack
	return nil
}
