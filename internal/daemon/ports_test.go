package daemon

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/cgroup"
	"github.com/sockdog/sockdog/internal/counters"
	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/source/sockdiag"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// ephemeral are a hundred ports that connect(2) chooses from.
const ephemeral = "40000 40099"

// client is a socket that is connected to a port of this host, or not at all.
type client struct {
	from  netip.AddrPort // to bind to; the zero value: not at all
	to    uint16         // 0: it stays unconnected
	ready func(nstest.Socket) error
}

// open makes the client, without SO_REUSEADDR.
func (c client) open(t *testing.T) (nstest.Socket, error) {
	t.Helper()
	to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), c.to)
	if c.from.Addr().Is6() {
		to = netip.AddrPortFrom(netip.IPv6Loopback(), c.to)
	}
	s, err := nstest.New(to.Addr(), unix.IPPROTO_TCP)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if err := unix.SetsockoptInt(int(s), unix.SOL_SOCKET, unix.SO_REUSEADDR, 0); err != nil {
		t.Fatal(err)
	}
	if c.ready != nil {
		if err := c.ready(s); err != nil {
			t.Fatal(err)
		}
	}
	if c.from.IsValid() {
		if err := s.Bind(c.from); err != nil {
			t.Fatal(err)
		}
	}
	if c.to == 0 {
		return s, nil
	}
	return s, s.Connect(to)
}

// portUsage is what a watchdog with a rule about the peer's port reads.
func portUsage(t *testing.T, dport uint16) float64 {
	t.Helper()
	now := sock.Instant(1000 * time.Second)
	clock := func() sock.Instant { return now }
	kernel, err := sockdiag.Open(clock, cgroup.New())
	if err != nil {
		t.Fatal(err)
	}
	defer kernel.Close()
	counts, err := counters.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer counts.Close()
	e := engine.New(engine.Config{})
	e.Step(now, engine.RulesChanged{Program: match.Compile(&rules.Set{
		Settings: rules.Settings{CPUBudget: 1},
		Rules: []rules.Rule{{
			Name: "ports", Enabled: true, When: []rules.Condition{{Metric: rules.PortUsage, Op: rules.Greater, Number: 100}},
			Match: []rules.Match{{States: ssfilter.Connected, Where: ssfilter.Ports(ssfilter.Dst, ssfilter.PortRange{First: dport, Last: dport})}},
			Then:  []rules.Action{{Kind: rules.Log}},
		}},
	})})
	scan := e.Step(now, Count(counts, false)).Scan
	finding := scan.Begin(now)
	if err := kernel.Scan(scan.Query, finding.Take); err != nil {
		t.Fatal(err)
	}
	e.Step(now, engine.ScanDone{Result: finding, Sent: now})
	return e.Overview(now).Rules[0].Groups[0].PortUsage
}

// TestPortUsageIsTheKernels compares port_usage of a path with how many connect(2)
// the kernel grants on it.
func TestPortUsageIsTheKernels(t *testing.T) {
	loopback := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), 0)
	named := func(i int) netip.AddrPort { return netip.AddrPortFrom(loopback.Addr(), uint16(40000+i)) }
	reuse := func(s nstest.Socket) error { return unix.SetsockoptInt(int(s), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) }
	plain := client{to: 9001}
	binds := client{to: 9001, from: loopback}
	timeWait := func(t *testing.T, s nstest.Socket, accept func() nstest.Socket) {
		s.Close()
		accept().Close()
	}
	for _, test := range []struct {
		name  string
		n     int
		make  func(i int) client
		after func(t *testing.T, s nstest.Socket, accept func() nstest.Socket)
		less  int // how many ports fewer sockdog may see
	}{
		{name: "connected without a bind", n: 60, make: func(int) client { return plain }},
		{name: "so many that the parity is used up", n: 80, make: func(int) client { return plain }},
		{name: "bound to port 0", n: 30, make: func(int) client { return binds }},
		{name: "bound to port 0, and more than half", n: 60, make: func(int) client { return binds }},
		{name: "all but twenty bound", n: 80, make: func(int) client { return binds }},
		{name: "bound to port 0 of any address", n: 60, make: func(int) client {
			return client{to: 9001, from: netip.AddrPortFrom(netip.IPv4Unspecified(), 0)}
		}},
		{name: "bound to port 0 of another address", n: 60, make: func(int) client {
			return client{to: 9001, from: netip.MustParseAddrPort("127.0.0.2:0")}
		}},
		{name: "bound in IPv6", n: 60, make: func(int) client { return client{to: 9001, from: netip.AddrPortFrom(netip.IPv6Loopback(), 0)} }},
		{name: "bound with SO_REUSEADDR", n: 60, make: func(int) client { c := binds; c.ready = reuse; return c }},
		{name: "bound, the port chosen by connect(2)", n: 60, make: func(int) client { c := binds; c.ready = nstest.Socket.ChoosePortLate; return c }},
		{name: "bound by name", n: 60, make: func(i int) client { return client{to: 9001, from: named(i)} }},
		{name: "bound by name with SO_REUSEADDR", n: 60, make: func(i int) client { return client{to: 9001, from: named(i), ready: reuse} }},
		{name: "some of either kind", n: 60, make: func(i int) client {
			if i%2 == 0 {
				return binds
			}
			return plain
		}},
		{name: "bound and listening", n: 30, make: func(int) client { return client{from: loopback} }, after: func(t *testing.T, s nstest.Socket, _ func() nstest.Socket) {
			if err := unix.Listen(int(s), 1); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "bound to port 0, in time-wait", n: 40, make: func(int) client { return binds }, after: timeWait},
		{name: "bound by name, in time-wait", n: 40, make: func(i int) client { return client{to: 9001, from: named(i)} }, after: timeWait, less: 20},
	} {
		t.Run(test.name, func(t *testing.T) {
			nstest.Isolate(t)
			if err := nstest.Sysctl("net.ipv4.ip_local_port_range", ephemeral); err != nil {
				t.Fatal(err)
			}
			listeners := make(map[uint16]nstest.Socket)
			for _, port := range []uint16{9001, 9002} {
				l, err := nstest.ListenAt(netip.AddrPortFrom(netip.IPv6Unspecified(), port), unix.IPPROTO_TCP)
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				if err := unix.Listen(int(l), 200); err != nil {
					t.Fatal(err)
				}
				listeners[port] = l
			}
			accept := func() nstest.Socket {
				s, err := listeners[9001].Accept()
				if err != nil {
					t.Fatal(err)
				}
				return s
			}
			for i := range test.n {
				s, err := test.make(i).open(t)
				if err != nil {
					t.Fatal(err)
				}
				if test.after != nil {
					test.after(t, s, accept)
				}
			}
			for range 5 {
				if _, err := (client{to: 9002}).open(t); err != nil {
					t.Fatal(err)
				}
			}
			usage := portUsage(t, 9002)
			free := 0
			for {
				if _, err := (client{to: 9002}).open(t); errors.Is(err, unix.EADDRNOTAVAIL) {
					break
				} else if err != nil {
					t.Fatal(err)
				}
				free++
			}
			if want := 100 - free; usage > float64(want) || usage < float64(want-test.less) {
				t.Errorf("port_usage is %v%%, and %d of 100 ports were left", usage, free)
			}
			if usage := portUsage(t, 9002); usage < float64(100-test.less) {
				t.Errorf("port_usage is %v%%, and no port is left", usage)
			}
		})
	}
}
