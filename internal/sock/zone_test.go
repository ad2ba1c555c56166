package sock_test

import (
	"net/netip"
	"testing"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

func TestZoned(t *testing.T) {
	for _, test := range []struct {
		name, addr string
		conn       ssfilter.Conn
		want       string
	}{
		{"link-local", "[fe80::1]:22", ssfilter.Conn{Iface: 2, Device: "eth0.7"}, "[fe80::1%eth0.7]:22"},
		{"on a device without a name", "[fe80::1]:22", ssfilter.Conn{Iface: 2}, "[fe80::1%2]:22"},
		{"on a device of an evil name", "[fe80::1]:22", ssfilter.Conn{Iface: 2, Device: "a\x1b\"]"}, "[fe80::1%2]:22"},
		{"bound to no device", "[fe80::1]:22", ssfilter.Conn{}, "[fe80::1]:22"},
		{"global", "[2001:db8::1]:22", ssfilter.Conn{Iface: 2, Device: "eth0"}, "[2001:db8::1]:22"},
		{"IPv4 link-local, which has no zone", "169.254.1.1:22", ssfilter.Conn{Iface: 2, Device: "eth0"}, "169.254.1.1:22"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := sock.Socket{Conn: test.conn}
			if got := s.Zoned(netip.MustParseAddrPort(test.addr)).String(); got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}
