package recording

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"slices"

	"github.com/sockdog/sockdog/internal/sock"
)

// Mask replaces what tells whose sockets those of a recording are: the same by the same, within
// one recording. Its key is nowhere but in memory. A nil Mask replaces nothing.
//
// Of an address each bit is flipped or not by a key and the bits before it (Crypto-PAn: Xu, Fan,
// Ammar and Moon, Prefix-Preserving IP Address Anonymization, 2002): so addresses of one network
// are of one network again. Networks that mean the same everywhere keep their own prefix.
type Mask struct {
	names bool // of processes and of where these belong are replaced, too
	block cipher.Block
	key   []byte
	known map[netip.Addr]netip.Addr
}

// maxKnown bounds the addresses that are kept in mind, each of which takes up to 128 blocks of
// AES.
const maxKnown = 1 << 16

// NewMask returns a mask with a new key.
func NewMask(names bool) (*Mask, error) {
	key := make([]byte, 16+sha256.Size)
	rand.Read(key) // which never fails
	block, err := aes.NewCipher(key[:16])
	if err != nil {
		return nil, err
	}
	return &Mask{names: names, block: block, key: key[16:], known: make(map[netip.Addr]netip.Addr)}, nil
}

// hides says what it replaces, as Header does.
func (m *Mask) hides() []string {
	switch {
	case m == nil:
		return nil
	case m.names:
		return []string{Addresses, Names}
	}
	return []string{Addresses}
}

// kept are networks that keep their prefix, because it tells of nobody: of those that are
// whole the addresses stay as they are.
var kept = []struct {
	netip.Prefix
	whole bool
}{
	{netip.MustParsePrefix("0.0.0.0/8"), true},
	{netip.MustParsePrefix("127.0.0.0/8"), true},
	{netip.MustParsePrefix("10.0.0.0/8"), false},
	{netip.MustParsePrefix("172.16.0.0/12"), false},
	{netip.MustParsePrefix("192.168.0.0/16"), false},
	{netip.MustParsePrefix("100.64.0.0/10"), false},
	{netip.MustParsePrefix("169.254.0.0/16"), false},
	{netip.MustParsePrefix("::/127"), true}, // :: and ::1
	{netip.MustParsePrefix("fc00::/7"), false},
	{netip.MustParsePrefix("fe80::/10"), false},
}

// Address returns what stands for an address.
func (m *Mask) Address(a netip.Addr) netip.Addr {
	a = a.Unmap()
	if m == nil {
		return a
	}
	if known, ok := m.known[a]; ok {
		return known
	}
	masked := a
	if i := keptBy(a); i < 0 {
		// What would come to be in one of those networks is flipped again: no two become one.
		for masked = m.flip(a, 0); keptBy(masked) >= 0; {
			masked = m.flip(masked, 0)
		}
	} else if !kept[i].whole {
		masked = m.flip(a, kept[i].Bits())
	}
	if len(m.known) == maxKnown {
		clear(m.known)
	}
	m.known[a] = masked
	return masked
}

// keptBy is the network that keeps the prefix of an address; -1: there is none.
func keptBy(a netip.Addr) int {
	for i := range kept {
		if kept[i].Contains(a) {
			return i
		}
	}
	return -1
}

// flip flips the bits of an address from one on, each by those before it.
func (m *Mask) flip(a netip.Addr, from int) netip.Addr {
	bits := a.AsSlice()
	flipped := slices.Clone(bits)
	for i := from; i < 8*len(bits); i++ {
		var in, out [aes.BlockSize]byte
		copy(in[:], bits[:i/8])
		in[i/8] = bits[i/8] &^ (0xff >> (i % 8))
		// Their number tells them from more that go on with zeros.
		in[aes.BlockSize-1] ^= byte(i)
		if len(bits) == 4 {
			in[aes.BlockSize-2] = 4
		}
		m.block.Encrypt(out[:], in[:])
		flipped[i/8] ^= (out[0] >> 7) << (7 - i%8)
	}
	masked, _ := netip.AddrFromSlice(flipped) // of 4 or 16 bytes
	return masked
}

// socket replaces what is to be replaced of a socket.
func (m *Mask) socket(s *sock.Socket) {
	if m == nil {
		return
	}
	// The path of a cgroup and the name of a namespace name what runs there.
	s.Cgroup, s.NetnsNames = "", ""
	s.ID.Src, s.ID.Dst = m.raw(s.ID.Family, s.ID.Src), m.raw(s.ID.Family, s.ID.Dst)
}

// raw replaces an address as the kernel writes it.
func (m *Mask) raw(family uint8, raw [16]byte) (masked [16]byte) {
	if family == afInet {
		copy(masked[:], m.Address(netip.AddrFrom4([4]byte(raw[:4]))).AsSlice())
		return masked
	}
	a := netip.AddrFrom16(raw)
	b := m.Address(a)
	if a.Is4In6() {
		b = netip.AddrFrom16(b.As16()) // mapped again
	}
	return b.As16()
}

// name replaces the name of a process, or of where one belongs.
func (m *Mask) name(s string) string {
	if m == nil || !m.names || s == "" {
		return s
	}
	h := hmac.New(sha256.New, m.key)
	h.Write([]byte(s))
	return "masked-" + hex.EncodeToString(h.Sum(nil)[:6])
}
