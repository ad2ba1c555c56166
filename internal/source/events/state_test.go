package events_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/netns"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/source/events"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// lives have a socket enter a state by the last of some acts, and leave it by another.
var lives = []struct {
	state   ssfilter.State
	prepare func(t testing.TB, p pair)               // nil: nothing
	enter   func(t testing.TB, p pair) nstest.Socket // returns the socket
	leave   func(t testing.TB, p pair)
}{
	{
		state: ssfilter.CloseWait,
		enter: func(t testing.TB, p pair) nstest.Socket { check(t, p.client.CloseWrite()); return p.server },
		leave: func(t testing.TB, p pair) { check(t, p.server.CloseWrite()) },
	},
	{
		state: ssfilter.FinWait2,
		enter: func(t testing.TB, p pair) nstest.Socket { check(t, p.client.CloseWrite()); return p.client },
		leave: func(t testing.TB, p pair) { check(t, p.server.CloseWrite()) },
	},
	{
		state:   ssfilter.FinWait1,
		prepare: func(t testing.TB, p pair) { check(t, p.server.Deafen()) },
		enter:   func(t testing.TB, p pair) nstest.Socket { check(t, p.client.CloseWrite()); return p.client },
		leave:   func(t testing.TB, p pair) { check(t, p.client.Disconnect()) },
	},
	{
		state: ssfilter.LastAck,
		prepare: func(t testing.TB, p pair) {
			check(t, p.client.CloseWrite())
			check(t, p.server.Await(unix.BPF_TCP_CLOSE_WAIT))
			check(t, p.client.Deafen())
		},
		enter: func(t testing.TB, p pair) nstest.Socket { check(t, p.server.CloseWrite()); return p.server },
		leave: func(t testing.TB, p pair) { check(t, p.server.Disconnect()) },
	},
	{
		state: ssfilter.Closing,
		prepare: func(t testing.TB, p pair) {
			check(t, p.client.Deafen())
			check(t, p.server.Deafen())
			check(t, p.client.CloseWrite())
			check(t, p.server.CloseWrite())
		},
		// The server sends its FIN again, which does not acknowledge the client's.
		enter: func(t testing.TB, p pair) nstest.Socket { check(t, p.client.Hear()); return p.client },
		leave: func(t testing.TB, p pair) { check(t, p.client.Disconnect()) },
	},
}

// TestStates has sockets of all kinds enter each state and leave it.
func TestStates(t *testing.T) {
	for _, life := range lives {
		for _, addr := range []netip.Addr{nstest.V4, nstest.V6, nstest.Mapped} {
			t.Run(life.state.String()+" "+addr.String(), func(t *testing.T) {
				table := attach(t, 1000, ssfilter.Of(life.state)).Table()
				p := connect(t, addr)
				check(t, p.client.Send(3))
				check(t, p.server.Receive(3))
				if life.prepare != nil {
					life.prepare(t, p)
				}
				before := now(t)
				s := life.enter(t, p)
				check(t, s.Await(uint8(life.state)))
				after := now(t)
				entered(t, table, s, life.state, before, after)

				life.leave(t, p)
				left(t, table, s)
			})
		}
	}
}

// TestSynSent has sockets of all kinds wait for an answer to their SYN.
func TestSynSent(t *testing.T) {
	for _, addr := range []netip.Addr{nstest.V4, nstest.V6, nstest.Mapped} {
		t.Run(addr.String(), func(t *testing.T) {
			table := attach(t, 1000, ssfilter.Of(ssfilter.SynSent)).Table()
			l := must(nstest.Listen(addr))(t)
			defer l.Close()
			at := must(l.Local())(t)
			check(t, l.Deafen())
			s := must(nstest.New(addr, unix.IPPROTO_TCP))(t)
			defer s.Close()
			for range 2 { // a socket that connects again has another port
				before := now(t)
				check(t, s.BeginConnect(at))
				entered(t, table, s, ssfilter.SynSent, before, now(t))
				check(t, s.Disconnect())
				left(t, table, s)
			}
			check(t, l.Hear())
			check(t, unix.SetNonblock(int(s), false))
			check(t, s.Connect(at))
			left(t, table, s)
		})
	}
}

// entered checks that the table has the socket, with the time and as sock_diag shows it.
func entered(t testing.TB, table *events.Table, s nstest.Socket, state ssfilter.State, from, to sock.Instant) {
	t.Helper()
	c := cookie(t, s)
	got, ok, err := table.Get(c)
	if err != nil || !ok {
		t.Fatalf("Get: %v, %v", ok, err)
	}
	if diff := cmp.Diff(map[uint64]events.Entry{c: got}, read(t, table)); diff != "" {
		t.Errorf("Get and Read differ (-Get +Read):\n%s", diff)
	}
	if got.Entered < from || got.Entered > to {
		t.Errorf("entered %v after the act began, which took %v", got.Entered.Sub(from), to.Sub(from))
	}
	shown := scan(t, ssfilter.Of(state))[c]
	want := events.Entry{ID: shown.ID, State: state, Entered: got.Entered, Acked: shown.Info.BytesAcked, Received: shown.Info.BytesReceived}
	want.ID.Netns = 0
	if got.NetnsCookie != 0 { // before Linux 5.15 the kernel does not tell
		want.NetnsCookie = must(netns.Cookie())(t)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the table differs from sock_diag (-sock_diag +table):\n%s", diff)
	}
}

func left(t testing.TB, table *events.Table, s nstest.Socket) {
	t.Helper()
	c := cookie(t, s)
	if e, ok := read(t, table)[c]; ok {
		t.Errorf("the table still has %+v", e)
	}
	if e, ok, err := table.Get(c); ok || err != nil {
		t.Errorf("Get: %+v, %v, %v", e, ok, err)
	}
}
