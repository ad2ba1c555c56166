package seen

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"

	"github.com/sockdog/sockdog/internal/sock"
)

const (
	groupsName = "groups"

	// groupSize is that of a record without its key, little-endian:
	//
	//	0 rule u64, 8 holding, 16 firing, 24 ended, 32 known, 40 fresh u64, 48 length of the key u16, 50 key
	//
	// In version 1 the key stood at 8, and was always as long as oldKey.
	groupSize = 50
	oldKey    = 48
	// mostGroups bounds what is read, in bytes: it is more than an engine keeps.
	mostGroups = 16 << 20
)

// Keep keeps groups, and no others. They are few, and say what is so at one
// instant: so the file is written anew each time, and counts as a whole, by the
// checksum that it ends with, or not at all.
func (s *Store) Keep(groups []sock.Group) error {
	le := binary.LittleEndian
	b := make([]byte, 0, recordSize+len(groups)*(groupSize+oldKey)+4)
	b = append(b, s.header[:]...)
	for i := range groups {
		g := &groups[i]
		b = le.AppendUint64(b, g.Rule)
		for _, at := range [...]sock.Instant{g.Holding, g.Firing, g.Ended, g.Known} {
			b = le.AppendUint64(b, uint64(at))
		}
		b = le.AppendUint64(b, g.Fresh)
		b = le.AppendUint16(b, uint16(len(g.Key)))
		b = append(b, g.Key...)
	}
	b = le.AppendUint32(b, crc32.Checksum(b, castagnoli()))
	gone := s.dir.Check()
	f, err := s.dir.Replace(groupsName, func(f *os.File) error {
		_, err := f.Write(b)
		return err
	})
	f.Close() // nil is closed, too
	if err := errors.Join(gone, err); err != nil {
		return fmt.Errorf("first-seen store: groups: %w", err)
	}
	return nil
}

// loadGroups reads what was kept last in the same boot and namespace; damaged:
// there is something, and it cannot be read as a whole.
func (s *Store) loadGroups() (groups []sock.Group, damaged bool) {
	f, err := s.dir.OpenFile(groupsName, os.O_RDONLY)
	if err != nil {
		return nil, !errors.Is(err, fs.ErrNotExist)
	}
	defer f.Close()
	// One byte more than counts, so that what is too long is seen to be.
	b, err := io.ReadAll(io.LimitReader(f, mostGroups+1))
	if err != nil || len(b) > mostGroups {
		return nil, true
	}
	return s.parseGroups(b)
}

func (s *Store) parseGroups(b []byte) (groups []sock.Group, damaged bool) {
	le := binary.LittleEndian
	if len(b) < recordSize+4 {
		return nil, true
	}
	h, records, sum := header(b), b[recordSize:len(b)-4], b[len(b)-4:]
	old := h == s.origin.header('1')
	switch {
	case h != s.header && !old:
		return nil, false // of another boot or namespace
	case le.Uint32(sum) != crc32.Checksum(b[:len(b)-4], castagnoli()):
		return nil, true
	case old:
		records = upgradeGroups(records)
	}
	for len(records) > 0 {
		if len(records) < groupSize {
			return nil, true
		}
		g, end := sock.Group{Rule: le.Uint64(records), Fresh: le.Uint64(records[40:])}, groupSize+int(le.Uint16(records[48:]))
		if len(records) < end {
			return nil, true
		}
		for i, at := range [...]*sock.Instant{&g.Holding, &g.Firing, &g.Ended, &g.Known} {
			*at = sock.Instant(le.Uint64(records[8+8*i:]))
		}
		g.Key = sock.GroupKey(records[groupSize:end])
		groups, records = append(groups, g), records[end:]
	}
	return groups, false
}

// upgradeGroups makes records of version 1 records of now. Their keys end in zeros
// that mean nothing.
func upgradeGroups(old []byte) (records []byte) {
	const size = groupSize - 2 + oldKey
	for ; len(old) >= size; old = old[size:] {
		records = append(append(records, old[:8]...), old[8+oldKey:size]...)
		records = append(binary.LittleEndian.AppendUint16(records, oldKey), old[8:8+oldKey]...)
	}
	return records
}
