package sockdiag

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// The connection that the peer has closed is in CLOSE-WAIT, and its subflow is not. The
// program's inode is that of both.
func TestMPTCPConnections(t *testing.T) {
	nstest.Isolate(t)
	c := openKernel(t)
	leak := must(nstest.MPTCPCloseWait(nstest.V4))(t)
	defer leak.Close()
	client := leak.Stuck[0]
	at := must(client.Remote())(t)
	plain := pair(t, listen(t, nstest.V4))
	defer plain.Close()

	scanMPTCP := func(q sock.Query) (found []sock.Socket) {
		t.Helper()
		known, err := c.ScanMPTCP(q, func(s *sock.Socket, _ sock.Instant) { found = append(found, *s) })
		if err != nil || !known {
			t.Fatalf("known %v, %v", known, err)
		}
		return found
	}
	inode := must(client.Inode())(t)
	got := scanMPTCP(sock.Query{States: ssfilter.Of(ssfilter.CloseWait)})
	if len(got) != 1 || got[0].State != ssfilter.CloseWait || got[0].Inode != inode || got[0].Dst != at || !got[0].MPTCP {
		t.Errorf("%+v, want the client's connection with inode %d", got, inode)
	}
	subflows := 0
	for _, s := range scan(t, c, sock.Query{States: ssfilter.AllStates}) {
		if s.Inode == inode && s.MPTCP && s.State == ssfilter.Established {
			subflows++
		}
	}
	if subflows != 1 {
		t.Errorf("%d subflows of that inode, want 1", subflows)
	}
	filter, err := ssfilter.ParseExpr("dport = 1")
	check(t, err)
	if got := scanMPTCP(sock.Query{States: ssfilter.AllStates, Where: filter}); len(got) > 0 {
		t.Errorf("%+v does not match the filter", got)
	}
}

// A kernel without the table refuses, at once or at the end of the dump.
func TestMPTCPUnknown(t *testing.T) {
	c := openKernel(t)
	for _, protocol := range []uint32{250, 251} { // which no kernel has
		c.seq++
		c.out = appendMPTCPDump(c.out[:0], c.seq, unix.AF_INET, ssfilter.AllStates)
		native.PutUint32(c.out[len(c.out)-4:], protocol)
		err := c.request(&pass{states: ssfilter.AllStates}, func(*sock.Socket, sock.Instant) {})
		if !lacksProtocol(err) {
			t.Errorf("protocol %d: error %v", protocol, err)
		}
		check(t, c.Close())
		check(t, c.ready())
	}
}
