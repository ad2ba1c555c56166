package seen

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Every record has recordSize bytes: a checksum, its kind, and in little-endian what it
// is about, field by field. A change of memory, sock.Key or sock.Spent needs
// a new version, unless it adds what is 0 where nothing says it.
const (
	recordSize = 72
	kindAt     = 4
	valueAt    = 5
)

// The kinds of records.
const (
	kindMemory = 1 // memory, which begins with its Key
	kindForget = 2 // sock.Key
	kindSpent  = 3 // sock.Spent
)

// memory is a sock.Memory on disk. What a source knows exactly it tells again.
type memory struct {
	sock.Key
	ID       uint64
	State    ssfilter.State
	Entered  sock.Instant
	Quiet    sock.Instant
	Queued   sock.Instant
	Acked    uint64
	Received uint64
	SegsIn   uint32
	Backlog  bool
	Accepted bool
}

func memoryOf(m *sock.Memory) *memory {
	return &memory{m.Key, m.ID, m.State, m.Entered, m.Quiet, m.Queued, m.Acked, m.Received, m.SegsIn, m.Backlog, m.Accepted}
}

// record is a record that was read.
type record struct {
	raw    []byte
	kind   uint8
	memory memory // of kindForget only the key
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
func (m *memory) newest() sock.Instant { return max(m.Entered, m.Quiet, m.Queued) }

// observed returns the memory as it was before it was written.
func (m *memory) observed() sock.Memory {
	return sock.Memory{
		Key: m.Key, ID: m.ID, State: m.State, Entered: m.Entered, Quiet: m.Quiet, Queued: m.Queued,
		Acked: m.Acked, Received: m.Received, SegsIn: m.SegsIn, Backlog: m.Backlog, Accepted: m.Accepted,
	}
}
