package seen

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"slices"

	"github.com/sockdog/sockdog/internal/sock"
)

const (
	groupsName = "groups"

	// mostGroups bounds what is read, in bytes: it is more than an engine keeps.
	mostGroups = 16 << 20
)

// Keep keeps groups, and no others. They are few, and say what is so at one
// instant: so the file is written anew each time, and counts as a whole, by the
// checksum that it ends with, or not at all. Each is in little-endian a sock.GroupFacts,
// whose change needs a new version, the length of the key and the key.
func (s *Store) Keep(groups []sock.Group) error {
	b := slices.Clone(s.header[:])
	for i := range groups {
		b, _ = binary.Append(b, binary.LittleEndian, &groups[i].GroupFacts)
		b = binary.LittleEndian.AppendUint16(b, uint16(len(groups[i].Key)))
		b = append(b, groups[i].Key...)
	}
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli()))
	return replace(s.dir, groupsName, b)
}

// parseGroups reads what was kept last in the same boot and namespace.
func (s *Store) parseGroups(b []byte) (groups []sock.Group, err error) {
	sum := len(b) - 4
	switch {
	case sum < recordSize:
		return nil, io.ErrUnexpectedEOF
	case header(b) != s.header:
		return nil, nil // of another boot, namespace or version
	case binary.LittleEndian.Uint32(b[sum:]) != crc32.Checksum(b[:sum], castagnoli()):
		return nil, errors.New("the checksum is wrong")
	}
	for rest := b[recordSize:sum]; len(rest) > 0; {
		var g sock.Group
		n, err := binary.Decode(rest, binary.LittleEndian, &g.GroupFacts)
		if err != nil || len(rest) < n+2 {
			return nil, io.ErrUnexpectedEOF
		}
		key, end := n+2, n+2+int(binary.LittleEndian.Uint16(rest[n:]))
		if end > len(rest) {
			return nil, io.ErrUnexpectedEOF
		}
		g.Key = sock.GroupKey(rest[key:end])
		groups = append(groups, g)
		rest = rest[end:]
	}
	return groups, nil
}
