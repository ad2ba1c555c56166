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
	groupsTemp = "groups.new"

	// groupSize is that of a record, little-endian:
	//
	//	0 rule u64, 8 key, 56 holding, 64 firing, 72 ended, 80 known, 88 fresh u64
	groupSize = 96
	// mostGroups bounds what is read: it is more than an engine keeps.
	mostGroups = 100_000
)

// Keep keeps groups, and no others. They are few, and say what is so at one
// instant: so the file is written anew each time, and counts as a whole, by the
// checksum that it ends with, or not at all.
func (s *Store) Keep(groups []sock.Group) error {
	le := binary.LittleEndian
	b := make([]byte, 0, recordSize+len(groups)*groupSize+4)
	b = append(b, s.header[:]...)
	for i := range groups {
		g := &groups[i]
		b = le.AppendUint64(b, g.Rule)
		b = append(b, g.Key[:]...)
		for _, at := range [...]sock.Instant{g.Holding, g.Firing, g.Ended, g.Known} {
			b = le.AppendUint64(b, uint64(at))
		}
		b = le.AppendUint64(b, g.Fresh)
	}
	b = le.AppendUint32(b, crc32.Checksum(b, castagnoli))
	gone := s.dir.Check()
	if err := errors.Join(gone, s.replaceGroups(b)); err != nil {
		return fmt.Errorf("first-seen store: groups: %w", err)
	}
	return nil
}

func (s *Store) replaceGroups(b []byte) error {
	f, err := s.dir.Create(groupsTemp, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = s.dir.Rename(groupsTemp, groupsName)
	}
	if err != nil {
		s.dir.Remove(groupsTemp)
	}
	return err
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
	b, err := io.ReadAll(io.LimitReader(f, recordSize+mostGroups*groupSize+4+1))
	if err != nil {
		return nil, true
	}
	return s.parseGroups(b)
}

func (s *Store) parseGroups(b []byte) (groups []sock.Group, damaged bool) {
	le := binary.LittleEndian
	switch {
	case len(b) < recordSize+4:
		return nil, true
	case [recordSize]byte(b) != s.header:
		return nil, false // of another boot or namespace
	}
	records, sum := b[recordSize:len(b)-4], b[len(b)-4:]
	if len(records)%groupSize != 0 || len(records) > mostGroups*groupSize || le.Uint32(sum) != crc32.Checksum(b[:len(b)-4], castagnoli) {
		return nil, true
	}
	for ; len(records) > 0; records = records[groupSize:] {
		g := sock.Group{Rule: le.Uint64(records), Key: sock.GroupKey(records[8:]), Fresh: le.Uint64(records[88:])}
		for i, at := range [...]*sock.Instant{&g.Holding, &g.Firing, &g.Ended, &g.Known} {
			*at = sock.Instant(le.Uint64(records[56+8*i:]))
		}
		groups = append(groups, g)
	}
	return groups, false
}
