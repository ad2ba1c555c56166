package manualkill_test

import (
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/manualkill"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/source/sockdiag"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// target is one connection, whose client end is to be destroyed.
type target struct {
	nstest.Pair
	listener nstest.Socket
}

// TestKernel has a real socket change between the scan and the act.
func TestKernel(t *testing.T) {
	tests := []struct {
		name      string
		inUse     bool
		before    func(c target) error
		meanwhile func(c target) error
		result    engine.Result
		reason    string
		alive     bool
	}{
		{
			name: "forgotten", before: closeServer,
			result: engine.Done,
		},
		{
			name: "closed by its program", before: closeServer,
			meanwhile: func(c target) error { return c.Client.Close() },
			result:    engine.Gone, reason: "it ended by itself",
		},
		{
			name: "closed by its peer", inUse: true,
			meanwhile: closeServer,
			result:    manualkill.LeftAlone, reason: "in close-wait by now, which is selected too", alive: true,
		},
		{
			name:   "half-closed, and sent something",
			before: func(c target) error { return first(c.Server.CloseWrite(), c.Client.Await(unix.BPF_TCP_CLOSE_WAIT)) },
			meanwhile: func(c target) error {
				return first(c.Client.Send(100), c.Server.Receive(100), unqueued(c.Client))
			},
			result: manualkill.LeftAlone, reason: "in use: it made progress meanwhile", alive: true,
		},
		{
			// The same socket, with the same cookie, addresses and state.
			name: "connected anew",
			before: func(c target) error {
				return first(c.Server.Send(100), c.Client.Receive(100), closeServer(c))
			},
			meanwhile: func(c target) error {
				local, err := c.Client.Local()
				if err != nil {
					return err
				}
				at, err := c.listener.Local()
				if err := first(err, c.Client.Disconnect(), c.Client.Bind(local), c.Client.Connect(at)); err != nil {
					return err
				}
				server, err := c.listener.Accept()
				return first(err, server.Close(), c.Client.Await(unix.BPF_TCP_CLOSE_WAIT))
			},
			result: engine.Changed, reason: "another connection by now", alive: true,
		},
		{
			name: "gone, and another with its addresses", inUse: true,
			meanwhile: func(c target) error {
				local, err := c.Client.Local()
				if err != nil {
					return err
				}
				at, err := c.listener.Local()
				if err := first(err, c.Client.Abort()); err != nil {
					return err
				}
				another, err := nstest.New(nstest.V4, unix.IPPROTO_TCP)
				return first(err, another.Bind(local), another.Connect(at))
			},
			result: engine.Gone, reason: "it ended by itself", alive: true,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			nstest.Isolate(t)
			listener := must(nstest.Listen(nstest.V4))(t)
			defer listener.Close()
			at := must(listener.Local())(t)
			client := must(nstest.New(nstest.V4, unix.IPPROTO_TCP))(t)
			check(t, client.Connect(at))
			c := target{nstest.Pair{Client: client, Server: must(listener.Accept())(t)}, listener}
			if test.before != nil {
				check(t, test.before(c))
			}
			cookie := must(client.Cookie())(t)

			now := must(sock.Clock())(t)
			kernel := must(sockdiag.Open(now, nil))(t)
			defer kernel.Close()
			o := &manualkill.Request{
				Query:     sock.Query{States: ssfilter.Of(ssfilter.Established, ssfilter.CloseWait), Where: ssfilter.Ports(ssfilter.Dst, ssfilter.PortRange{First: at.Port(), Last: at.Port()})},
				InUse:     test.inUse,
				Precision: sockdiag.Precision(),
			}
			targets, _, err := o.Find(kernel, now)
			check(t, err)
			if len(targets) != 1 || targets[0].Socket.ID.Cookie != cookie {
				t.Fatalf("%d sockets selected, want the client's alone", len(targets))
			}
			if test.meanwhile != nil {
				check(t, test.meanwhile(c))
			}
			o.Destroy(t.Context(), manualkill.Pending(targets), kernel, nil)
			got := []string{string(targets[0].Result), targets[0].Reason}
			if diff := cmp.Diff([]string{string(test.result), test.reason}, got); diff != "" {
				t.Errorf("fate (-want +got):\n%s", diff)
			}
			left, _, err := o.Find(kernel, now)
			check(t, err)
			if alive := len(left) == 1; alive != test.alive {
				t.Errorf("alive %v, want %v", alive, test.alive)
			}
		})
	}
}

// TestThreads has many destroyed at once, and none of another port.
func TestThreads(t *testing.T) {
	defer goleak.VerifyNone(t)
	nstest.Need(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const many = 1500
	leak := must(nstest.CloseWait(nstest.V4, nstest.ClientSide, many))(t)
	defer leak.Close()
	other := must(nstest.CloseWait(nstest.V4, nstest.ClientSide, 10))(t)
	defer other.Close()
	port := must(leak.Stuck[0].Remote())(t).Port()

	now := must(sock.Clock())(t)
	open := func() (manualkill.Destroyer, error) { return sockdiag.Open(now, nil) }
	kernel := must(sockdiag.Open(now, nil))(t)
	defer kernel.Close()
	all := sock.Query{States: ssfilter.Of(ssfilter.CloseWait)}
	o := &manualkill.Request{Query: all, Precision: sockdiag.Precision()}
	o.Query.Where = ssfilter.Ports(ssfilter.Dst, ssfilter.PortRange{First: port, Last: port})
	targets, _, err := o.Find(kernel, now)
	check(t, err)
	o.Destroy(t.Context(), manualkill.Pending(targets), kernel, open)
	done := 0
	for _, target := range targets {
		if target.Result == engine.Done {
			done++
		}
	}
	if done != many {
		t.Errorf("%d destroyed, want %d", done, many)
	}
	left := 0
	check(t, kernel.Scan(all, func(*sock.Socket, sock.Instant) { left++ }))
	if left != 10 {
		t.Errorf("%d left, want the 10 of another port", left)
	}
}

// A connection of Multipath TCP is told, and nothing of it is killed, whatever is asked for.
func TestMPTCP(t *testing.T) {
	nstest.Need(t)
	nstest.Isolate(t)
	leak := must(nstest.MPTCPCloseWait(nstest.V4))(t)
	defer leak.Close()
	client := leak.Stuck[0]
	at := must(client.Remote())(t)
	now := must(sock.Clock())(t)
	kernel := must(sockdiag.Open(now, nil))(t)
	defer kernel.Close()
	open := func() (manualkill.Destroyer, error) { return sockdiag.Open(now, nil) }
	to := ssfilter.Ports(ssfilter.Dst, ssfilter.PortRange{First: at.Port(), Last: at.Port()})
	const connection, subflow = "a connection of Multipath TCP, of which nothing is killed: end it in its program", "an MPTCP subflow"
	for _, test := range []struct {
		name      string
		states    ssfilter.StateSet
		olderThan time.Duration
		want      []string
	}{
		{"in close-wait", ssfilter.Of(ssfilter.CloseWait), 0, []string{connection}},
		{"of an age", ssfilter.Of(ssfilter.CloseWait), time.Hour, []string{connection}},
		{"in any state", ssfilter.AllStates, 0, []string{subflow, connection}},
		{"a state without any", ssfilter.Of(ssfilter.SynSent), 0, nil},
		{"listening", ssfilter.Of(ssfilter.Listening), 0, nil},
	} {
		o := &manualkill.Request{
			Query: sock.Query{States: test.states, Where: to}, Precision: sockdiag.Precision(), InUse: true, OlderThan: test.olderThan,
		}
		targets, _, err := o.Find(kernel, now)
		check(t, err)
		o.Destroy(t.Context(), manualkill.Pending(targets), kernel, open)
		var got []string
		for _, target := range targets {
			got = append(got, target.Reason)
			if target.Result != manualkill.LeftAlone {
				t.Errorf("%s: %s is %s", test.name, target.Socket.State, target.Result)
			}
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
	check(t, client.Send(1)) // it lives
}

func closeServer(c target) error {
	return first(c.Server.Close(), c.Client.Await(unix.BPF_TCP_CLOSE_WAIT))
}

// unqueued waits until all that was sent is acknowledged.
func unqueued(s nstest.Socket) error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		queued, err := unix.IoctlGetInt(int(s), unix.SIOCOUTQ)
		if err != nil || queued == 0 || time.Now().After(deadline) {
			return err
		}
	}
}

// first is the first of several errors.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func must[V any](v V, err error) func(t *testing.T) V {
	return func(t *testing.T) V {
		t.Helper()
		check(t, err)
		return v
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
