package ssfilter_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// The two forms of a dump request: v1 walks both families at once, v2 one.
var requests = []struct {
	name     string
	families []uint8
	message  func(family uint8, code []byte) []byte
}{
	{"v1", []uint8{unix.AF_INET}, func(family uint8, code []byte) []byte {
		const tcpdiagGetsock = 18
		body := make([]byte, 60) // struct inet_diag_req
		body[0] = family
		binary.NativeEndian.PutUint32(body[52:], uint32(ssfilter.AllStates))
		return message(tcpdiagGetsock, body, code)
	}},
	{"v2", []uint8{unix.AF_INET, unix.AF_INET6}, func(family uint8, code []byte) []byte {
		const sockDiagByFamily = 20
		body := make([]byte, 56) // struct inet_diag_req_v2
		body[0], body[1] = family, unix.IPPROTO_TCP
		binary.NativeEndian.PutUint32(body[4:], uint32(ssfilter.AllStates))
		return message(sockDiagByFamily, body, code)
	}},
}

// message is a dump request with code as its attribute INET_DIAG_REQ_BYTECODE,
// unless code is nil.
func message(kind uint16, body, code []byte) []byte {
	if code != nil {
		body = binary.NativeEndian.AppendUint16(body, uint16(4+len(code)))
		body = binary.NativeEndian.AppendUint16(body, 1)
		body = append(body, code...)
	}
	msg := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	msg = binary.NativeEndian.AppendUint16(msg, kind)
	msg = binary.NativeEndian.AppendUint16(msg, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	msg = append(msg, make([]byte, 8)...)
	return append(msg, body...)
}

// dump sends each request and returns every socket of the answers.
func dump(t testing.TB, fd int, messages ...[]byte) ([]ssfilter.Conn, error) {
	t.Helper()
	var conns []ssfilter.Conn
	for _, msg := range messages {
		if err := answers(t, fd, msg, func(body []byte) { conns = append(conns, decode(body)) }); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(conns, func(a, b ssfilter.Conn) int {
		if order := a.Src.Compare(b.Src); order != 0 {
			return order
		}
		return a.Dst.Compare(b.Dst)
	})
	return conns, nil
}

// answers sends a request and hands over each struct inet_diag_msg of the answer.
func answers(t testing.TB, fd int, msg []byte, each func(body []byte)) error {
	t.Helper()
	if err := unix.Sendto(fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.Read(fd, buf)
		if err != nil {
			t.Fatal(err)
		}
		for rest := buf[:n]; len(rest) > 0; {
			size := int(binary.NativeEndian.Uint32(rest))
			body := rest[unix.SizeofNlMsghdr:size]
			switch binary.NativeEndian.Uint16(rest[4:]) {
			case unix.NLMSG_DONE:
				return nil
			case unix.NLMSG_ERROR:
				return unix.Errno(-int32(binary.NativeEndian.Uint32(body)))
			default:
				each(body)
			}
			rest = rest[(size+3)&^3:]
		}
	}
}

// decode reads a struct inet_diag_msg.
func decode(msg []byte) ssfilter.Conn {
	endpoint := func(port, addr []byte) netip.AddrPort {
		a := netip.AddrFrom4([4]byte(addr))
		if msg[0] == unix.AF_INET6 {
			a = netip.AddrFrom16([16]byte(addr)).Unmap()
		}
		return netip.AddrPortFrom(a, binary.BigEndian.Uint16(port))
	}
	c := ssfilter.Conn{
		State:  ssfilter.State(msg[1]),
		Src:    endpoint(msg[4:], msg[8:24]),
		Dst:    endpoint(msg[6:], msg[24:40]),
		Iface:  binary.NativeEndian.Uint32(msg[40:]),
		Cgroup: "/0",
	}
	if c.Iface == loopback {
		c.Device = "lo"
	}
	for attrs := msg[72:]; len(attrs) >= unix.SizeofNlAttr; {
		size := int(binary.NativeEndian.Uint16(attrs))
		value := attrs[unix.SizeofNlAttr:size]
		switch binary.NativeEndian.Uint16(attrs[2:]) {
		case attrMark:
			c.Mark, c.HasMark = binary.NativeEndian.Uint32(value), true
		case attrCgroup:
			c.Cgroup = fmt.Sprintf("/%d", binary.NativeEndian.Uint64(value))
		}
		attrs = attrs[min((size+3)&^3, len(attrs)):]
	}
	return c
}

// Attributes of an answer, from enum INET_DIAG_* of include/uapi/linux/inet_diag.h.
const (
	attrMark   = 15
	attrCgroup = 21
)

// loopback is the index of lo in every namespace.
const loopback = 1

// kernelNames knows one device. The path of a cgroup is its number.
type kernelNames struct{}

func (kernelNames) DeviceIndex(name string) (uint32, bool) { return loopback, name == "lo" }

func (kernelNames) CgroupID(path string) (uint64, bool) {
	id, err := strconv.ParseUint(path[1:], 10, 64)
	return id, err == nil
}

// connections makes listeners and connections of every kind of address, one of
// them bound to a device, some with marks.
func connections(t testing.TB) {
	t.Helper()
	var plain net.ListenConfig
	plain.SetMultipathTCP(false)
	for _, pair := range []struct {
		network, listen, from, to string
		device                    string
		mark                      int
	}{
		{"tcp4", "127.0.0.1:5001", "127.0.0.1:6001", "127.0.0.1:5001", "", 0},
		{"tcp4", "127.0.0.2:5002", "127.0.0.3:6002", "127.0.0.2:5002", "lo", 0},
		{"tcp6", "[::1]:5003", "[::1]:6003", "[::1]:5003", "", 0x10},
		{"tcp", "[::]:5004", "127.0.0.1:6004", "127.0.0.4:5004", "", 0x11}, // its server's end is mapped
		{"tcp", "[::]:5005", "[::1]:6005", "[::1]:5005", "lo", 0x110},
	} {
		ln, err := plain.Listen(context.Background(), pair.network, pair.listen)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(pair.from)), Timeout: 10 * time.Second}
		dialer.Control = func(_, _ string, raw syscall.RawConn) (err error) {
			raw.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, pair.mark)
				if err == nil && pair.device != "" {
					err = unix.BindToDevice(int(fd), pair.device)
				}
			})
			return err
		}
		client, err := dialer.Dial("tcp", pair.to)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { client.Close() })
		server, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { server.Close() })
	}
}

// setNetAdmin sets or clears CAP_NET_ADMIN among the effective capabilities of
// this thread, which the test must have locked.
func setNetAdmin(t testing.TB, effective bool) {
	t.Helper()
	self := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&self, &sets[0]); err != nil {
		t.Fatal(err)
	}
	sets[0].Effective &^= 1 << unix.CAP_NET_ADMIN
	if effective {
		sets[0].Effective |= 1 << unix.CAP_NET_ADMIN
	}
	if err := unix.Capset(&self, &sets[0]); err != nil {
		t.Fatal(err)
	}
}

func diagSocket(t testing.TB) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 30}); err != nil {
		t.Fatal(err)
	}
	return fd
}

// table is every socket of the namespace, by requests without a program.
func table(t testing.TB, fd int, form int) []ssfilter.Conn {
	t.Helper()
	conns, err := dump(t, fd, messages(form, nil)...)
	if err != nil {
		t.Fatal(err)
	}
	if len(conns) != 15 {
		t.Fatalf("%s: %d sockets, want 5 listeners and 5 connections: %v", requests[form].name, len(conns), conns)
	}
	return conns
}

// messages are the dump requests of one form that take both families together.
func messages(form int, code []byte) (all [][]byte) {
	for _, family := range requests[form].families {
		all = append(all, requests[form].message(family, code))
	}
	return all
}

// selects checks that the kernel accepts the program of x, and selects with it
// what Eval selects of the table.
func selects(t *testing.T, fd int, form int, table []ssfilter.Conn, x ssfilter.Expr) {
	t.Helper()
	code, err := ssfilter.Compile(x, kernelNames{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := dump(t, fd, messages(form, code)...)
	if err != nil {
		t.Fatalf("%v: the kernel says %v", x, os.NewSyscallError("dump", err))
	}
	if ssfilter.Asks(x).Autobound {
		return // no attribute tells it
	}
	var want []ssfilter.Conn
	for _, c := range table {
		if x.Eval(&c) == ssfilter.True {
			want = append(want, c)
		}
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("%v (-Eval +kernel):\n%s", x, diff)
	}
}

// The kernel must accept every program and select with it what Eval selects.
func TestKernelSelectsWhatEvalDoes(t *testing.T) {
	nstest.Isolate(t)
	connections(t)
	fd := diagSocket(t)

	own := table(t, fd, 0)[0].Cgroup
	exprs := map[string]ssfilter.Expr{}
	for _, text := range []string{
		"sport = 5001", "dport = 5001", "sport != 5001", "sport >= 5002 and sport <= 5004", "sport > 65535", "dport = *", "sport = 65535 or sport = 0",
		"sport = 5001 or sport = 5003 or sport = 6004 or sport = 6001", "dport = 5001 or dport = 5003 or dport = 6004 or dport = 6001", "not ( dport = 5001 or dport = 5003 )",
		"src *", "not src *", "src inet:*", "src inet6:*", "not src inet6:*", "not dst inet:*", "src [::/0]", "src [::/80]", "not src [::/80]", "not dst [::/95] and sport = 5004",
		"src 127.0.0.0/8", "src 127.0.0.4", "src [::ffff:127.0.0.4]", "dst 127.0.0.0/30", "not src 127.0.0.1", "src [::1]", "src [::]", "dst 0.0.0.0", "src [::1]:5005", "not src 127.0.0.2:5002",
		"src 127.0.0.1 or src 127.0.0.4 or src [::1]", "( src [::/80] or src 127.0.0.1 ) and not ( dport = 6001 or dst 127.0.0.1 )",
		"not ( sport = 5001 and dst 127.0.0.1 ) and ( not sport = 5003 or not ( src [::1] and dport = 6003 ) )",
		"dev = lo", "dev != lo", "dev = 1", "dev = 0", "dev = gone", "dev != gone", "dev = 7",
		"fwmark = 0", "fwmark = 0x10", "fwmark != 0x10", "fwmark = 0x10/0x10", "fwmark = 0/0x100", "fwmark = 0x11/0x10", "fwmark = 0/0", "fwmark = 0xffffffff",
		"cgroup = " + own, "cgroup != " + own, "cgroup = /gone", "cgroup != /gone", "cgroup = /0",
		"dev = lo and not ( fwmark = 0x10/0x10 or sport = 6002 ) and cgroup = " + own,
	} {
		x, err := ssfilter.ParseExpr(text)
		if err != nil {
			t.Fatal(err)
		}
		exprs[text] = x
	}
	var most []ssfilter.PortRange
	for i := range uint16(819) {
		most = append(most, ssfilter.PortRange{First: 2*i + 1, Last: 2*i + 1})
	}
	exprs["the largest program"] = ssfilter.Ports(ssfilter.Src, most...)

	for form, r := range requests {
		table := table(t, fd, form)
		for name, x := range exprs {
			t.Run(fmt.Sprint(r.name, " ", name), func(t *testing.T) { selects(t, fd, form, table, x) })
		}
	}
}

// What the kernel says of autobound is told by which sockets it selects.
func TestAutobound(t *testing.T) {
	nstest.Isolate(t)
	connections(t)
	chosen, err := net.Dial("tcp", "127.0.0.1:5001")
	if err != nil {
		t.Fatal(err)
	}
	defer chosen.Close()
	fd := diagSocket(t)
	code, err := ssfilter.Compile(ssfilter.And(ssfilter.Autobound(), ssfilter.Ports(ssfilter.Dst, ssfilter.PortRange{First: 5001, Last: 5001})), kernelNames{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := dump(t, fd, messages(0, code)...)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0].Src.String() != chosen.LocalAddr().String() {
		t.Errorf("autobound to port 5001: %v, want %v alone", got, chosen.LocalAddr())
	}
}

// conditions are what generated programs are made of.
var conditions = []string{
	"sport = 5001", "dport != 5001", "sport >= 5002", "dport <= 6003", "sport = 65535", "dport = 0",
	"src 127.0.0.0/8", "dst 127.0.0.4", "src inet6:*", "dst [::1]", "src [::/80]", "dst 0/0", "src *", "dst [::1]:5005",
	"dev = lo", "dev != 0", "dev = gone", "fwmark = 0x10/0x10", "fwmark != 0x11", "cgroup = /0", "cgroup != /gone", "autobound",
}

// generate makes an expression by the choices that data gives.
func generate(data []byte, depth int) (text string, rest []byte) {
	if len(data) == 0 || depth == 0 {
		return conditions[0], data
	}
	choice, data := int(data[0]), data[1:]
	switch choice % 8 {
	case 0:
		text, data = generate(data, depth-1)
		return "not " + text, data
	case 1, 2:
		word := []string{" and ", " or "}[choice%2]
		parts := make([]string, 2+choice/8%4)
		for i := range parts {
			parts[i], data = generate(data, depth-1)
		}
		return "( " + strings.Join(parts, word) + " )", data
	}
	return conditions[choice%len(conditions)], data
}

// The kernel accepts every program, but one that asks for marks without
// CAP_NET_ADMIN, which it refuses with EPERM.
func FuzzCompile(f *testing.F) {
	for _, seed := range []string{"", "0123456789", "\x01\x02\x00\x0c\x0d\x0e", "\x19\x12\x03\x00\x04\x21\x05\x06\x0f\x07\x10\x11", "\x02\x01\x02\x01\x02\x15\x14\x13\x2b\x2c\x2d\x2e\x2f"} {
		f.Add([]byte(seed))
	}
	nstest.Isolate(f)
	connections(f)
	fd := diagSocket(f)
	conns := table(f, fd, 0)
	f.Fuzz(func(t *testing.T, data []byte) {
		text, _ := generate(data, 6)
		x, err := ssfilter.ParseExpr(text)
		if err != nil {
			t.Fatal(err)
		}
		code, err := ssfilter.Compile(x, kernelNames{})
		if errors.Is(err, ssfilter.ErrTooLarge) {
			return
		}
		selects(t, fd, 0, conns, x)

		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		setNetAdmin(t, false)
		defer setNetAdmin(t, true)
		var want error
		if strings.Contains(x.String(), "fwmark") {
			want = unix.EPERM
		}
		if _, err := dump(t, fd, messages(0, code)...); err != want {
			t.Errorf("%v without CAP_NET_ADMIN: %v, want %v", x, err, want)
		}
	})
}
