package events_test

import (
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/source/events"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Callbacks of sock_ops programs.
const (
	connects = 3  // BPF_SOCK_OPS_TCP_CONNECT_CB
	active   = 4  // BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB
	passive  = 5  // BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB
	changes  = 10 // BPF_SOCK_OPS_STATE_CB
)

// clearer attaches a program that takes the flags from every connection which has one of two
// callbacks, as one does that knows of itself alone.
func clearer(t testing.TB, one, other int32) (detach func()) {
	t.Helper()
	program := must(ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:    ebpf.SockOps,
		License: "GPL",
		Instructions: asm.Instructions{
			asm.LoadMem(asm.R2, asm.R1, 0, asm.Word), // op
			asm.JEq.Imm(asm.R2, one, "clear"),
			asm.JEq.Imm(asm.R2, other, "clear"),
			asm.Ja.Label("out"),
			asm.Mov.Imm(asm.R2, 0).WithSymbol("clear"),
			asm.FnSockOpsCbFlagsSet.Call(),
			asm.Mov.Imm(asm.R0, 1).WithSymbol("out"),
			asm.Return(),
		},
	}))(t)
	defer program.Close()
	l := must(link.AttachCgroup(link.CgroupOptions{Path: string(own), Attach: ebpf.AttachCGroupSockOps, Program: program}))(t)
	t.Cleanup(func() { l.Close() }) // again, where the test has closed it
	return func() { check(t, l.Close()) }
}

// TestCleared: another program can take the flag from a connection, which then is not
// followed. FlagOlder gives it back, and believes nothing of what was known before.
func TestCleared(t *testing.T) {
	p := attach(t, 100, ssfilter.Of(ssfilter.CloseWait))
	table := p.Table()
	detach := clearer(t, active, passive)
	if !alone(t, 2) {
		return
	}
	missed, held := connect(t, nstest.V4), connect(t, nstest.V4)
	check(t, missed.client.CloseWrite())
	check(t, missed.server.Await(unix.BPF_TCP_CLOSE_WAIT))
	_, followed, err := table.Get(cookie(t, missed.server))
	check(t, err)
	detach()
	flagged, can := flag(t, p)
	if !can || !alone(t, 1) {
		return
	}
	if followed || flagged != 4 {
		t.Errorf("followed without the flag: %v, %d connections flagged", followed, flagged)
	}
	entered(t, table, missed.server, ssfilter.CloseWait, 0, 0)
	check(t, table.Forget(cookie(t, missed.server)))
	before := now(t)
	check(t, held.client.CloseWrite())
	check(t, held.server.Await(unix.BPF_TCP_CLOSE_WAIT))
	entered(t, table, held.server, ssfilter.CloseWait, before, now(t))
}

// TestStale: FlagOlder corrects what the table has of a connection whose flag was taken.
func TestStale(t *testing.T) {
	p := attach(t, 100, ssfilter.Of(ssfilter.SynSent))
	table := p.Table()
	detach := clearer(t, connects, connects)
	if !alone(t, 2) {
		return
	}
	c := connect(t, nstest.V4)
	detach()
	if !alone(t, 1) {
		return
	}
	if e := read(t, table)[cookie(t, c.client)]; e.State != ssfilter.SynSent {
		t.Errorf("the table has %+v of a connection whose flag was taken as it began", e)
	}
	if _, can := flag(t, p); can {
		left(t, table, c.client)
	}
}

// TestConnectedAnew: what the table has of a connection whose flag was taken while it was
// stuck is not told of the next one of the same socket, which has its cookie, its addresses
// and its state.
func TestConnectedAnew(t *testing.T) {
	p := attach(t, 100, ssfilter.Of(ssfilter.CloseWait))
	table := p.Table()
	l := must(nstest.Listen(nstest.V4))(t)
	defer l.Close()
	to := must(l.Local())(t)
	client := must(nstest.New(nstest.V4, unix.IPPROTO_TCP))(t)
	defer client.Close()
	check(t, client.Bind(netip.AddrPortFrom(nstest.V4, 5433)))
	stuck := func() {
		server := must(l.Accept())(t)
		check(t, server.CloseWrite())
		check(t, client.Await(unix.BPF_TCP_CLOSE_WAIT))
		check(t, server.Abort())
	}
	check(t, client.Connect(to))
	clearer(t, changes, active)
	before := now(t)
	server := must(l.Accept())(t)
	check(t, server.CloseWrite())
	check(t, client.Await(unix.BPF_TCP_CLOSE_WAIT))
	entered(t, table, client, ssfilter.CloseWait, before, now(t))
	check(t, client.Disconnect())
	check(t, server.Abort())
	check(t, client.Connect(to))
	left(t, table, client)
	stuck()
	if e, ok := read(t, table)[cookie(t, client)]; ok {
		t.Errorf("the table has %+v of the connection before", e)
	}
}

// TestWithoutCapabilities: what is loaded and attached goes on without privileges, or says
// that it cannot.
func TestWithoutCapabilities(t *testing.T) {
	p := attach(t, 100, ssfilter.Of(ssfilter.CloseWait))
	if kernel(t, 5, 19) && p.NeedsCapBPF() {
		t.Error("this kernel should need no capability")
	}
	c := connect(t, nstest.V4)
	check(t, c.client.CloseWrite())
	check(t, c.server.Await(unix.BPF_TCP_CLOSE_WAIT))
	server := cookie(t, c.server)
	nstest.WithoutCapabilities(t, func() {
		_, ok, getting := p.Table().Get(server)
		n := 0
		reading := p.Table().Read(func(*events.Entry) { n++ })
		_, losing := p.Table().Lost()
		var owning, flagging error
		if p.WhyNoOwners() == nil {
			_, owning = p.Owners([]uint32{must(c.server.Inode())(t)})
		}
		if p.WhyNoFlag() == nil {
			_, _, flagging = p.FlagOlder()
			if p.WhyNoFlag() != nil {
				flagging = nil
			}
		}
		for what, err := range map[string]error{
			"get": getting, "read": reading, "lost": losing, "want": p.Table().Want(0), "forget": p.Table().Forget(server), "owners": owning, "flag": flagging,
			"attached": p.Attached(), "detach": p.Detach(), "attach": p.Attach(string(own)),
		} {
			if (err != nil) && !p.NeedsCapBPF() {
				t.Errorf("%s: %v", what, err)
			}
		}
		if !p.NeedsCapBPF() && (!ok || n != 1) {
			t.Errorf("got: %v, read: %d", ok, n)
		}
	})
}
