package seen

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/sockdog/sockdog/internal/sock"
)

// Every record has recordSize bytes: a checksum, its kind, and in little-endian what it
// is about, field by field. A change of sock.Memory, Key or Spent needs a new version.
const (
	recordSize = 72
	kindAt     = 4
	valueAt    = 5
)

// The kinds of records.
const (
	kindMemory = 1 // sock.Memory, which begins with its Key
	kindForget = 2 // sock.Key
	kindSpent  = 3 // sock.Spent
)

// record is a record that was read.
type record struct {
	raw    []byte
	kind   uint8
	memory sock.Memory // of kindForget only the key
	spent  sock.Spent
}

// castagnoli is made when it is first needed: that takes as long as many a command.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// checksum is that of a record. It begins with the header's, so that a record of
// another boot or namespace never passes.
func checksum(b []byte, header uint32) uint32 {
	return crc32.Update(header, castagnoli(), b[kindAt:recordSize])
}

// encode fills b, which has the size of a record.
func encode(b []byte, header uint32, kind uint8, value any) {
	clear(b)
	b[kindAt] = kind
	binary.Encode(b[valueAt:], binary.LittleEndian, value) // each fits, as a test says
	binary.LittleEndian.PutUint32(b, checksum(b, header))
}

// decode reads raw, and reports whether it is as it was written.
func (r *record) decode(header uint32) bool {
	if binary.LittleEndian.Uint32(r.raw) != checksum(r.raw, header) {
		return false
	}
	var value any
	switch r.kind = r.raw[kindAt]; r.kind {
	case kindMemory:
		value = &r.memory
	case kindForget:
		value = &r.memory.Key
	case kindSpent:
		value = &r.spent
	default:
		return true
	}
	_, err := binary.Decode(r.raw[valueAt:], binary.LittleEndian, value)
	return err == nil
}

// newest is the latest instant at which something in a memory had happened.
func newest(m *sock.Memory) sock.Instant { return max(m.Entered, m.Quiet, m.Queued) }
