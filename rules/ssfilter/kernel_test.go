package ssfilter_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
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
	buf := make([]byte, 64<<10)
	for _, msg := range messages {
		if err := unix.Sendto(fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			t.Fatal(err)
		}
		for done := false; !done; {
			n, err := unix.Read(fd, buf)
			if err != nil {
				t.Fatal(err)
			}
			for rest := buf[:n]; len(rest) > 0; {
				size := int(binary.NativeEndian.Uint32(rest))
				body := rest[unix.SizeofNlMsghdr:size]
				switch binary.NativeEndian.Uint16(rest[4:]) {
				case unix.NLMSG_DONE:
					done = true
				case unix.NLMSG_ERROR:
					return nil, unix.Errno(-int32(binary.NativeEndian.Uint32(body)))
				default:
					conns = append(conns, decode(body))
				}
				rest = rest[(size+3)&^3:]
			}
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

// decode reads a struct inet_diag_msg.
func decode(msg []byte) ssfilter.Conn {
	endpoint := func(port, addr []byte) netip.AddrPort {
		a := netip.AddrFrom4([4]byte(addr))
		if msg[0] == unix.AF_INET6 {
			a = netip.AddrFrom16([16]byte(addr)).Unmap()
		}
		return netip.AddrPortFrom(a, binary.BigEndian.Uint16(port))
	}
	return ssfilter.Conn{
		State: ssfilter.State(msg[1]),
		Src:   endpoint(msg[4:], msg[8:24]),
		Dst:   endpoint(msg[6:], msg[24:40]),
	}
}

// connections makes listeners and connections of every kind of address.
func connections(t *testing.T) {
	t.Helper()
	var plain net.ListenConfig
	plain.SetMultipathTCP(false)
	for _, pair := range []struct{ network, listen, from, to string }{
		{"tcp4", "127.0.0.1:5001", "127.0.0.1:6001", "127.0.0.1:5001"},
		{"tcp4", "127.0.0.2:5002", "127.0.0.3:6002", "127.0.0.2:5002"},
		{"tcp6", "[::1]:5003", "[::1]:6003", "[::1]:5003"},
		{"tcp", "[::]:5004", "127.0.0.1:6004", "127.0.0.4:5004"}, // its server's end is mapped
		{"tcp", "[::]:5005", "[::1]:6005", "[::1]:5005"},
	} {
		ln, err := plain.Listen(context.Background(), pair.network, pair.listen)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(pair.from)), Timeout: 10 * time.Second}
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

// The kernel must accept every program and select with it what Eval selects.
func TestKernelSelectsWhatEvalDoes(t *testing.T) {
	nstest.Need(t)
	connections(t)
	fd := diagSocket(t)

	exprs := map[string]ssfilter.Expr{}
	for _, text := range []string{
		"sport = 5001", "dport = 5001", "sport != 5001", "sport >= 5002 and sport <= 5004", "sport > 65535", "dport = *", "sport = 65535 or sport = 0",
		"sport = 5001 or sport = 5003 or sport = 6004 or sport = 6001", "dport = 5001 or dport = 5003 or dport = 6004 or dport = 6001", "not ( dport = 5001 or dport = 5003 )",
		"src *", "not src *", "src inet:*", "src inet6:*", "not src inet6:*", "not dst inet:*", "src [::/0]", "src [::/80]", "not src [::/80]", "not dst [::/95] and sport = 5004",
		"src 127.0.0.0/8", "src 127.0.0.4", "src [::ffff:127.0.0.4]", "dst 127.0.0.0/30", "not src 127.0.0.1", "src [::1]", "src [::]", "dst 0.0.0.0", "src [::1]:5005", "not src 127.0.0.2:5002",
		"src 127.0.0.1 or src 127.0.0.4 or src [::1]", "( src [::/80] or src 127.0.0.1 ) and not ( dport = 6001 or dst 127.0.0.1 )",
		"not ( sport = 5001 and dst 127.0.0.1 ) and ( not sport = 5003 or not ( src [::1] and dport = 6003 ) )",
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

	for _, r := range requests {
		all := func(code []byte) (messages [][]byte) {
			for _, family := range r.families {
				messages = append(messages, r.message(family, code))
			}
			return messages
		}
		table, err := dump(t, fd, all(nil)...)
		if err != nil {
			t.Fatal(err)
		}
		if len(table) != 15 {
			t.Fatalf("%s: %d sockets, want 5 listeners and 5 connections: %v", r.name, len(table), table)
		}
		for name, x := range exprs {
			t.Run(fmt.Sprint(r.name, " ", name), func(t *testing.T) {
				code, err := ssfilter.Compile(x)
				if err != nil {
					t.Fatal(err)
				}
				got, err := dump(t, fd, all(code)...)
				if err != nil {
					t.Fatalf("%v: the kernel says %v", x, os.NewSyscallError("dump", err))
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
			})
		}
	}
}
