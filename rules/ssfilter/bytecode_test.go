package ssfilter

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// entry is what inet_diag_bc_run sees of a socket: the addresses of a
// dual-stack one are mapped.
type entry struct {
	family       uint8
	src, dst     []byte
	sport, dport uint16
	iface, mark  uint32
	cgroup       uint64
	autobound    bool
}

// entryOf makes the kernel's view of c; an IPv4 connection can be one of a
// dual-stack socket.
func entryOf(c *Conn, dualStack bool) entry {
	e := entry{
		family: afInet, src: c.Src.Addr().AsSlice(), dst: c.Dst.Addr().AsSlice(), sport: c.Src.Port(), dport: c.Dst.Port(),
		iface: c.Iface, mark: c.Mark, autobound: c.Autobound == True,
	}
	e.cgroup, _ = sampleNames{}.CgroupID(c.Cgroup)
	if dualStack || c.Src.Addr().Is6() {
		src, dst := c.Src.Addr().As16(), c.Dst.Addr().As16()
		e.family, e.src, e.dst = afInet6, src[:], dst[:]
	}
	return e
}

// hostcond is struct inet_diag_hostcond.
type hostcond struct {
	family, bits uint8
	port         int32
	addr         []byte
}

func hostcondAt(code []byte) hostcond {
	return hostcond{code[4], code[5], int32(binary.NativeEndian.Uint32(code[8:])), code[12:]}
}

// run does what inet_diag_bc_run does with a program that audit has passed.
func run(code []byte, e entry) bool {
	left := len(code)
	for left > 0 {
		op := code[len(code)-left:]
		yes := true
		port := func() uint16 { return binary.NativeEndian.Uint16(op[6:]) }
		switch op[0] {
		case opNop:
		case opJump:
			yes = false
		case opSGE:
			yes = e.sport >= port()
		case opSLE:
			yes = e.sport <= port()
		case opDGE:
			yes = e.dport >= port()
		case opDLE:
			yes = e.dport <= port()
		case opSCond:
			yes = hostcondAt(op).holds(e.family, e.src, e.sport)
		case opDCond:
			yes = hostcondAt(op).holds(e.family, e.dst, e.dport)
		case opAuto:
			yes = e.autobound
		case opDevice:
			yes = binary.NativeEndian.Uint32(op[4:]) == e.iface
		case opMark:
			yes = e.mark&binary.NativeEndian.Uint32(op[8:]) == binary.NativeEndian.Uint32(op[4:])
		case opCgroup:
			yes = binary.NativeEndian.Uint64(op[4:]) == e.cgroup
		}
		if yes {
			left -= int(op[1])
		} else {
			left -= int(binary.NativeEndian.Uint16(op[2:]))
		}
	}
	return left == 0
}

func (h hostcond) holds(family uint8, addr []byte, port uint16) bool {
	if h.port != -1 && h.port != int32(port) {
		return false
	}
	if h.family != afUnspec && h.family != family {
		inMapped := bytes.HasPrefix(addr, []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff})
		return family == afInet6 && h.family == afInet && inMapped && sameBits(addr[12:], h.addr, int(h.bits))
	}
	return sameBits(addr, h.addr, int(h.bits))
}

func sameBits(a, b []byte, n int) bool {
	for i := range n {
		if (a[i/8]^b[i/8])<<(i%8)&0x80 != 0 {
			return false
		}
	}
	return true
}

// audit holds code to the rules of inet_diag_bc_audit.
func audit(code []byte) error {
	if len(code) < opSize || len(code) > maxProgram {
		return fmt.Errorf("a program of %d bytes", len(code))
	}
	starts := map[int]bool{len(code): true}
	for at := 0; at < len(code); at += int(code[at+1]) {
		starts[at] = true
		if code[at+1] < opSize || code[at+1]%4 != 0 {
			return fmt.Errorf("at %d: yes is %d", at, code[at+1])
		}
	}
	for at := 0; at < len(code); at += int(code[at+1]) {
		op, left := code[at:], len(code)-at
		size := opSize
		switch op[0] {
		case opNop, opJump, opAuto:
		case opDevice:
			size += 4
		case opMark, opCgroup:
			size += 8
		case opSGE, opSLE, opDGE, opDLE:
			size += opSize
		case opSCond, opDCond:
			size += 8
			if left < size {
				return fmt.Errorf("at %d: %d bytes left for %d", at, left, size)
			}
			h := hostcondAt(op)
			addrLen, ok := map[uint8]int{afUnspec: 0, afInet: 4, afInet6: 16}[h.family]
			if size += addrLen; !ok || int(h.bits) > 8*addrLen {
				return fmt.Errorf("at %d: family %d, prefix of %d bits", at, h.family, h.bits)
			}
		default:
			return fmt.Errorf("at %d: unknown operation %d", at, op[0])
		}
		yes, no := int(op[1]), int(binary.NativeEndian.Uint16(op[2:]))
		switch {
		case left < size:
			return fmt.Errorf("at %d: %d bytes left for %d", at, left, size)
		case op[0] != opNop && (no < size || no > left+4 || no%4 != 0 || no < left && !starts[at+no]):
			return fmt.Errorf("at %d: no is %d", at, no)
		case yes < size || yes > left:
			return fmt.Errorf("at %d: yes is %d", at, yes)
		}
	}
	return nil
}

// The model must be able to say no, or it proves nothing.
func TestAuditRefuses(t *testing.T) {
	good, err := Compile(And(Ports(Src, PortRange{1, 9}), Hosts(Dst, netip.MustParsePrefix("10.0.0.0/8"))), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := audit(good); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		spoil func(code []byte) []byte
	}{
		{"empty", func(code []byte) []byte { return nil }},
		{"cut", func(code []byte) []byte { return code[:len(code)-4] }},
		{"unknown operation", func(code []byte) []byte { code[0] = 99; return code }},
		{"jump into an operation", func(code []byte) []byte { binary.NativeEndian.PutUint16(code[2:], 12); return code }},
		{"jump too far", func(code []byte) []byte { binary.NativeEndian.PutUint16(code[2:], uint16(len(code)+8)); return code }},
		{"prefix too long", func(code []byte) []byte { code[16+5] = 33; return code }},
	} {
		if err := audit(tt.spoil(slices.Clone(good))); err == nil {
			t.Errorf("%s: passed", tt.name)
		}
	}
}

func TestCompileMatchesEval(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := drawSample(samplePorts, samplePrefixes).Draw(t, "expr").Expr
		code, err := Compile(x, sampleNames{})
		if err != nil {
			t.Fatal(err)
		}
		if err := audit(code); err != nil {
			t.Fatalf("%v: %v\n%x", x, err, code)
		}
		c := drawConn(t)
		want := x.Eval(&c) == True
		if got := run(code, entryOf(&c, false)); got != want {
			t.Fatalf("%v on %v: the program says %v\n%x", x, c, got, code)
		}
		if got := run(code, entryOf(&c, true)); got != want {
			t.Fatalf("%v on %v, dual-stack: the program says %v\n%x", x, c, got, code)
		}
	})
}

func TestCompileSizes(t *testing.T) {
	singles := func(n int) []PortRange {
		var ranges []PortRange
		for i := range n {
			ranges = append(ranges, PortRange{uint16(2*i + 1), uint16(2*i + 1)})
		}
		return ranges
	}
	tests := []struct {
		name string
		expr Expr
		size int // 0: too large
	}{
		{"every port", Ports(Src, PortRange{0, 65535}), 4},
		{"no port", Ports(Src), 4},
		{"every address", Hosts(Src, anyIPv4, anyIPv6), 4},
		{"one port", Ports(Src, PortRange{22, 22}), 12},
		{"one range", Ports(Src, PortRange{5000, 5999}), 16},
		{"one IPv4 prefix", Hosts(Src, netip.MustParsePrefix("10.0.0.0/8")), 16},
		{"one IPv6 prefix", Hosts(Src, netip.MustParsePrefix("2001:db8::/32")), 28},
		{"a device", device{name: "lo"}, 8},
		{"a device that is not there", device{name: "gone"}, 4},
		{"a mark", mark{1, 1}, 12},
		{"a cgroup", cgroup("/a"), 12},
		{"a cgroup that is not there", cgroup("/gone"), 4},
		{"autobound", Autobound(), 4},
		{"100 ports", Ports(Src, singles(100)...), 1992},
		{"5,000 ports in a row", Ports(Src, PortRange{5000, 9999}), 16},
		{"the most ports", Ports(Src, singles(819)...), 16372},
		{"one port more", Ports(Src, singles(820)...), 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			code, err := Compile(tt.expr, sampleNames{})
			if tt.size == 0 {
				if !errors.Is(err, ErrTooLarge) {
					t.Fatalf("%d bytes, %v; want ErrTooLarge", len(code), err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := audit(code); err != nil {
				t.Error(err)
			}
			if len(code) != tt.size {
				t.Errorf("%d bytes, want %d", len(code), tt.size)
			}
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	x, err := ParseExpr("dst 10.0.0.0/8 and ( dport = 5432 or sport = 443 ) and not src [2001:db8::/32]")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Compile(x, nil); err != nil {
			b.Fatal(err)
		}
	}
}
