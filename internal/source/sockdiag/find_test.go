package sockdiag

import (
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
)

// The kernel says whose the other end of a connection is, as long as that is open,
// and never takes the listener for it.
func TestFind(t *testing.T) {
	for _, test := range []struct {
		name string
		at   netip.Addr
		to   netip.Addr
	}{
		{"IPv4", nstest.V4, nstest.V4},
		{"IPv6", nstest.V6, nstest.V6},
		{"IPv4 to a listener of both", netip.IPv6Unspecified(), nstest.V4},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := openKernel(t)
			l := listen(t, test.at)
			to := netip.AddrPortFrom(test.to, must(l.Local())(t).Port())
			client := must(nstest.Connect(to))(t)
			defer client.Close()
			from := must(client.Local())(t)
			s, ok, err := c.Find(to, from)
			if err != nil || !ok || s.Inode != 0 {
				t.Fatalf("not accepted yet: %+v, %v, %v", s, ok, err)
			}
			server := must(l.Accept())(t)
			s, ok, err = c.Find(to, from)
			if inode := must(server.Inode())(t); err != nil || !ok || s.Inode != inode || s.UID != uint32(os.Geteuid()) || s.Src != to || s.Dst != from {
				t.Fatalf("%+v, %v, %v; want the inode %d", s, ok, err, inode)
			}
			if s, ok, err = c.Find(to, netip.AddrPortFrom(from.Addr(), from.Port()^1)); ok || err != nil {
				t.Errorf("from a port that is not connected: %+v, %v, %v", s, ok, err)
			}
			if s, ok, err = c.Find(netip.AddrPortFrom(to.Addr(), 1), from); ok || err != nil {
				t.Errorf("to a port that nobody listens on: %+v, %v, %v", s, ok, err)
			}
			server.Abort()
			client.Await(unix.BPF_TCP_CLOSE)
			if s, ok, err = c.Find(to, from); ok || err != nil {
				t.Errorf("closed: %+v, %v, %v", s, ok, err)
			}
		})
	}
}
