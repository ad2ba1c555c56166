package recording_test

import (
	"bytes"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/sockdog/sockdog/internal/recording"
	"github.com/sockdog/sockdog/internal/sock"
)

func newMask(t testing.TB, names bool) *recording.Mask {
	t.Helper()
	m, err := recording.NewMask(names)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestMaskKeeps(t *testing.T) {
	m := newMask(t, false)
	for _, a := range []string{"127.0.0.1", "127.255.0.7", "0.0.0.0", "::", "::1"} {
		if got := m.Address(netip.MustParseAddr(a)).String(); got != a {
			t.Errorf("%s became %s", a, got)
		}
	}
	for a, network := range map[string]string{
		"10.1.2.3": "10.0.0.0/8", "172.20.1.2": "172.16.0.0/12", "192.168.7.8": "192.168.0.0/16", "100.100.1.1": "100.64.0.0/10",
		"169.254.169.254": "169.254.0.0/16", "fd12::7": "fc00::/7", "fe80::1": "fe80::/10",
	} {
		if got := m.Address(netip.MustParseAddr(a)); !netip.MustParsePrefix(network).Contains(got) {
			t.Errorf("%s became %s, out of %s", a, got, network)
		}
	}
	if a, b := m.Address(netip.MustParseAddr("::ffff:192.0.2.1")), m.Address(netip.MustParseAddr("192.0.2.1")); a != b {
		t.Errorf("an address became %s, and IPv4-mapped %s", b, a)
	}
	if other := newMask(t, false); m.Address(netip.MustParseAddr("2001:db8::7")) == other.Address(netip.MustParseAddr("2001:db8::7")) {
		t.Error("two recordings have the same key")
	}
}

// shared is how many bits two addresses begin with that are the same.
func shared(a, b netip.Addr) int {
	for n := a.BitLen(); n > 0; n-- {
		if p, _ := a.Prefix(n); p.Contains(b) {
			return n
		}
	}
	return 0
}

// Two addresses stay two, and what they share of their prefix they share again: of 16 bits or
// more for IPv4, and 10 for IPv6. Shorter ones are broken by the networks that are kept.
func TestMaskPreservesPrefixes(t *testing.T) {
	m := newMask(t, false)
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.SampledFrom([]int{4, 16}).Draw(t, "size")
		one := rapid.SliceOfN(rapid.Byte(), size, size).Draw(t, "one")
		other := bytes.Clone(one)
		at := rapid.IntRange(0, 8*size-1).Draw(t, "differs at")
		other[at/8] ^= 1 << (7 - at%8)
		a, _ := netip.AddrFromSlice(one)
		b, _ := netip.AddrFromSlice(other)
		if a.Is4In6() || b.Is4In6() {
			t.Skip("an IPv4 address")
		}
		maskedA, maskedB := m.Address(a), m.Address(b)
		if maskedA.BitLen() != a.BitLen() || maskedA == maskedB {
			t.Fatalf("%s and %s became %s and %s", a, b, maskedA, maskedB)
		}
		least := 16
		if size == 16 {
			least = 10
		}
		if n := shared(a, b); n >= least && n < 126 && shared(maskedA, maskedB) != n {
			t.Fatalf("%s and %s share %d bits, and %s and %s %d", a, b, n, maskedA, maskedB, shared(maskedA, maskedB))
		}
	})
}

// Nothing in a masked recording is as it was that tells whose it is.
func TestMaskedRecording(t *testing.T) {
	s := established(1)
	s.ID.Dst = [16]byte{203, 0, 113, 77}
	s.Dst = s.ID.Peer()
	s.Cgroup, s.NetnsNames = "/system.slice/secret.service", "/secret/"
	one := shotAt(0, s)
	one.Holders = map[uint32][]sock.Holder{s.Inode: {{PID: 7, Comm: "secret", Exe: "secret", Owner: &sock.Owner{
		Unit: sock.Fact{Text: "secret.service", Known: true}, ContainerID: sock.Fact{Text: "secret", Known: true}, PodUID: sock.Fact{Text: "secret", Known: true},
		Container: "secret", Pod: "secret/secret", CmdlineAsked: "\x00secret\x00", CmdlineMeets: "\x00secret\x00",
	}}}}
	for _, names := range []bool{false, true} {
		file := write(t, newMask(t, names), one)
		shots, r, _ := read(file)
		got := shots[0].sockets[0]
		if got.Dst.Addr() == s.Dst.Addr() || got.Dst.Port() != s.Dst.Port() || got.Dst != got.ID.Peer() {
			t.Errorf("%s became %s (%s)", s.Dst, got.Dst, got.ID.Peer())
		}
		if got.Cgroup != "" || got.NetnsNames != "" {
			t.Errorf("the cgroup is %q, the names of the namespace %q", got.Cgroup, got.NetnsNames)
		}
		if want := 1 + len(r.Header.Masked) - 1; names != (want == 2) {
			t.Errorf("the header says that it masks %v", r.Header.Masked)
		}
	}
}

// The names are in a recording that is masked unless they are to be masked, too; command lines
// are in none.
func TestMaskedNames(t *testing.T) {
	s := established(1)
	one := shotAt(0, s)
	owner := &sock.Owner{Unit: sock.Fact{Text: "secret.service", Known: true}, CmdlineMeets: "\x00secret\x00"}
	one.Holders = map[uint32][]sock.Holder{s.Inode: {{PID: 7, Start: 9, Comm: "secret", Exe: "secret", Owner: owner}, {PID: 8, Comm: "secret"}}}
	for _, names := range []bool{false, true} {
		r, err := recording.NewReader(bytes.NewReader(write(t, newMask(t, names), one)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
		held := r.HoldersOf(s.Inode)
		if len(held) != 2 || held[0].PID != 7 || held[0].Start != 9 || held[0].Comm != held[1].Comm || held[0].Owner.CmdlineMeets != "" {
			t.Fatalf("%+v", held)
		}
		if masked := held[0].Comm != "secret" && held[0].Owner.Unit.Text != "secret.service"; masked != names {
			t.Errorf("names are to be masked %v, and are %+v of %+v", names, held[0], held[0].Owner)
		}
	}
}
