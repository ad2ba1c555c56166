package seen

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Every record has recordSize bytes, little-endian:
//
//	 0 checksum u32, 4 kind u8, 5 state u8, 6 flags u8, 8 cookie or rule u64, 68 netns u32
//	memory: 16 id, 24 entered, 32 quiet, 40 queued, 48 acked, 56 received u64, 64 segs_in u32,
//	        flags: 1 in an accept queue, 2 accepted from one
//	spent:  16 n u64, 24 at, 32 expires u64
//
// Version 1 had the flags at 68, and no netns.
const recordSize = 72

const (
	kindMemory = 1
	kindForget = 2
	kindSpent  = 3
)

const (
	flagBacklog  = 1
	flagAccepted = 2
)

// castagnoli is made when it is first needed: that takes as long as many a command.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// seal writes the checksum of a record. It begins with the header's, so that a
// record of another boot or namespace never passes.
func seal(b []byte, header uint32) {
	binary.LittleEndian.PutUint32(b, checksum(b, header))
}

func sealed(b []byte, header uint32) bool {
	return binary.LittleEndian.Uint32(b) == checksum(b, header)
}

func checksum(b []byte, header uint32) uint32 {
	return crc32.Update(header, castagnoli(), b[4:recordSize])
}

// upgrade makes a record of version 1 one of now: its socket was in that namespace.
func upgrade(b []byte, netns uint32) {
	if b[4] == kindMemory || b[4] == kindForget {
		b[6] = b[68]
		binary.LittleEndian.PutUint32(b[68:], netns)
	}
}

func encodeKey(b []byte, kind uint8, k sock.Key) {
	b[4] = kind
	binary.LittleEndian.PutUint64(b[8:], k.Cookie)
	binary.LittleEndian.PutUint32(b[68:], k.Netns)
}

func decodeKey(b []byte) sock.Key {
	return sock.Key{Netns: binary.LittleEndian.Uint32(b[68:]), Cookie: binary.LittleEndian.Uint64(b[8:])}
}

func encodeMemory(b []byte, m *sock.Memory) {
	encodeKey(b, kindMemory, m.Key)
	b[5] = uint8(m.State)
	if m.Backlog {
		b[6] |= flagBacklog
	}
	if m.Accepted {
		b[6] |= flagAccepted
	}
	le := binary.LittleEndian
	le.PutUint64(b[16:], m.ID)
	le.PutUint64(b[24:], uint64(m.Entered))
	le.PutUint64(b[32:], uint64(m.Quiet))
	le.PutUint64(b[40:], uint64(m.Queued))
	le.PutUint64(b[48:], m.Acked)
	le.PutUint64(b[56:], m.Received)
	le.PutUint32(b[64:], m.SegsIn)
}

func decodeMemory(b []byte) sock.Memory {
	le := binary.LittleEndian
	return sock.Memory{
		Key:      decodeKey(b),
		ID:       le.Uint64(b[16:]),
		State:    ssfilter.State(b[5]),
		Entered:  sock.Instant(le.Uint64(b[24:])),
		Quiet:    sock.Instant(le.Uint64(b[32:])),
		Queued:   sock.Instant(le.Uint64(b[40:])),
		Acked:    le.Uint64(b[48:]),
		Received: le.Uint64(b[56:]),
		SegsIn:   le.Uint32(b[64:]),
		Backlog:  b[6]&flagBacklog != 0,
		Accepted: b[6]&flagAccepted != 0,
	}
}

// newest returns the latest instant in a record at which something had happened.
func newest(b []byte) sock.Instant {
	at := func(offset int) sock.Instant { return sock.Instant(binary.LittleEndian.Uint64(b[offset:])) }
	switch b[4] {
	case kindMemory:
		return max(at(24), at(32), at(40))
	case kindSpent:
		return at(24)
	default:
		return 0
	}
}

func encodeSpent(b []byte, s *sock.Spent) {
	b[4] = kindSpent
	le := binary.LittleEndian
	le.PutUint64(b[8:], s.Rule)
	le.PutUint64(b[16:], uint64(s.N))
	le.PutUint64(b[24:], uint64(s.At))
	le.PutUint64(b[32:], uint64(s.Expires))
}

func decodeSpent(b []byte) sock.Spent {
	le := binary.LittleEndian
	return sock.Spent{
		Rule:    le.Uint64(b[8:]),
		N:       uint32(le.Uint64(b[16:])),
		At:      sock.Instant(le.Uint64(b[24:])),
		Expires: sock.Instant(le.Uint64(b[32:])),
	}
}
