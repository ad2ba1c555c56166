package ssfilter_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
)

// population is some hundred TCP sockets, in every state in which one can be held
// for a minute: of IPv4 and IPv6, mapped and scoped, marked, bound to devices,
// with ports of their own choice and the kernel's, in several cgroups.
type population struct {
	Devices []string        // that sockets are bound to, by option or by scope
	Cgroups []nstest.Cgroup // that sockets belong to
	Lacks   []error         // what this machine does not allow, and is left out

	sockets  []nstest.Socket
	own      nstest.Cgroup   // where the process was
	made     []nstest.Cgroup // by this population, the inner one first
	open     []func() error  // scenes that are not over yet
	fastOpen bool            // can be had
}

// newPopulation makes one in the namespace of the calling thread, which must be
// fresh (Isolate), and moves this process through cgroups while it does. Of the
// sockets whose descriptor is closed some are gone after a minute.
func newPopulation() (*population, error) {
	p := &population{Devices: []string{"lo"}}
	if err := p.fill(); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// Close aborts all that has a descriptor, and removes the cgroups.
func (p *population) Close() error {
	var errs []error
	for _, s := range p.sockets {
		errs = append(errs, s.Abort())
	}
	if len(p.made) > 0 {
		errs = append(errs, p.own.Enter())
	}
	for _, group := range p.made {
		errs = append(errs, group.Remove())
	}
	p.sockets, p.made = nil, nil
	return errors.Join(errs...)
}

// lack notes what could not be had, and reports whether it is missing.
func (p *population) lack(err error) bool {
	if err != nil {
		p.Lacks = append(p.Lacks, err)
	}
	return err != nil
}

func (p *population) keep(s nstest.Socket) nstest.Socket {
	p.sockets = append(p.sockets, s)
	return s
}

// populationDevice is a second device beside lo.
const populationDevice = "nstest0"

// addresses gives the namespace more addresses than it had, and lists all. One of
// IPv6 begins as 127.0.0.1 does: ss compares addresses of different families.
func (p *population) addresses() ([]netip.Addr, error) {
	for _, more := range []string{"10.1.2.3/32", "2001:db8::1/128", "2001:db8:1::2:3/128", "7f00:1::1/128"} {
		if err := nstest.AddAddress(nstest.Loopback, netip.MustParsePrefix(more)); err != nil {
			return nil, err
		}
	}
	addrs := []netip.Addr{
		nstest.V4, netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.1.2.3"), netip.MustParseAddr("10.1.2.3"),
		nstest.V6, netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8:1::2:3"), netip.MustParseAddr("7f00:1::1"),
		nstest.Mapped, netip.MustParseAddr("::ffff:10.1.2.3"),
	}
	device, err := nstest.NewDevice(populationDevice)
	if p.lack(err) {
		return addrs, nil
	}
	scoped := netip.MustParsePrefix("fe80::1/64")
	if err := nstest.AddAddress(device, scoped); err != nil {
		return nil, err
	}
	p.Devices = append(p.Devices, populationDevice)
	return append(addrs, scoped.Addr().WithZone(strconv.Itoa(device.Attrs().Index))), nil
}

// nest makes two cgroups below the process's own, one in the other.
func (p *population) nest() error {
	own, err := nstest.OwnCgroup()
	if err != nil {
		return err
	}
	p.own = own
	group := own
	for _, name := range []string{fmt.Sprintf("nstest-%d-%d", os.Getpid(), unix.Gettid()), "inner"} {
		if group, err = group.New(name); err != nil {
			return err
		}
		p.made = append([]nstest.Cgroup{group}, p.made...)
	}
	// Each round is in another one, the last in the process's own.
	p.Cgroups = append(p.made[:2:2], own)
	for _, group := range p.Cgroups {
		if err := group.Enter(); err != nil {
			p.Cgroups = nil
			return err
		}
	}
	return nil
}

func (p *population) fill() error {
	addrs, err := p.addresses()
	if err != nil {
		return err
	}
	// Clients may send data with the first SYN, listeners take it, without cookies.
	p.fastOpen = !p.lack(nstest.Sysctl("net.ipv4.tcp_fastopen", strconv.Itoa(0x607)))
	// The ports that sockets choose for themselves, which another must not have.
	p.lack(nstest.Sysctl("net.ipv4.ip_local_reserved_ports", "40000-40999,50000-50999"))
	p.lack(p.nest())
	const rounds = 3
	for round := range rounds {
		if len(p.Cgroups) > 0 {
			if err := p.Cgroups[round].Enter(); err != nil {
				return err
			}
		}
		for i, addr := range addrs {
			on, err := p.stage(addr, round, i)
			if err != nil {
				return err
			}
			for j, scene := range scenes {
				if (i+j)%rounds != round {
					continue
				}
				on.client++
				if err := scene.play(on); err != nil {
					return fmt.Errorf("%s on %v: %w", scene.name, addr, err)
				}
			}
		}
	}
	for _, end := range p.open {
		if err := end(); err != nil {
			return err
		}
	}
	return nil
}

// A stage is a listener and those who come to it. What options their sockets have
// goes by their number.
type stage struct {
	*population
	addr     netip.Addr
	device   string // "": not bound
	mark     uint32 // of the listener
	listener nstest.Socket
	at       netip.AddrPort // where it listens
	client   int
}

// stage opens the listener of a round on an address.
func (p *population) stage(addr netip.Addr, round, i int) (*stage, error) {
	on := &stage{population: p, addr: addr, client: 100*round + 7*i}
	if round == 1 {
		on.device, on.mark = "lo", 0x20
		if addr.Zone() != "" {
			on.device = populationDevice
		}
	}
	// Of the kernel's choice, a service's, and one among those that the kernel
	// chooses from.
	services := [...]uint16{22, 80, 443, 25, 53, 110, 3306, 5432, 6379, 8080, 11211}
	port := [...]uint16{0, services[i], uint16(40000 + i)}[round]
	var err error
	on.listener, on.at, err = on.listen(port)
	return on, err
}

// listen opens a listener on the stage's address.
func (on *stage) listen(port uint16) (nstest.Socket, netip.AddrPort, error) {
	s, err := nstest.New(on.addr, unix.IPPROTO_TCP)
	if err != nil {
		return -1, netip.AddrPort{}, err
	}
	on.keep(s)
	err = s.Mark(on.mark)
	if err == nil && on.device != "" {
		err = s.BindToDevice(on.device)
	}
	if err == nil {
		err = s.Bind(netip.AddrPortFrom(on.addr, port))
	}
	if err == nil {
		err = unix.Listen(int(s), 128)
	}
	if err != nil {
		return -1, netip.AddrPort{}, fmt.Errorf("listen on %v port %d: %w", on.addr, port, err)
	}
	at, err := s.Local()
	return s, at, err
}

// socket opens a client's socket.
func (on *stage) socket() (nstest.Socket, error) {
	s, err := nstest.New(on.addr, unix.IPPROTO_TCP)
	if err != nil {
		return -1, err
	}
	on.keep(s)
	marks := [...]uint32{0, 1, 0x10, 0x1234, 0xffffffff}
	if err := s.Mark(marks[on.client/5%len(marks)]); err != nil {
		return -1, err
	}
	if on.device != "" || on.client%4 == 1 && on.addr.Zone() == "" {
		device := on.device
		if device == "" {
			device = "lo"
		}
		if err := s.BindToDevice(device); err != nil {
			return -1, err
		}
	}
	from := on.addr
	if from.Unmap().IsLoopback() && from != nstest.V6 { // all of 127.0.0.0/8 is this host
		b := from.As16()
		b[14], b[15] = byte(on.client), byte(on.client%3+1)
		if from = netip.AddrFrom16(b); on.addr.Is4() {
			from = from.Unmap()
		}
	}
	switch on.client % 5 {
	case 0: // the kernel chooses address and port
		return s, nil
	case 1: // and here the port alone, now
		return s, s.Bind(netip.AddrPortFrom(from, 0))
	case 2: // or late
		if err := s.ChoosePortLate(); err != nil {
			return -1, err
		}
		return s, s.Bind(netip.AddrPortFrom(from, 0))
	case 3: // a port of its own, where the kernel would choose one
		return s, s.Bind(netip.AddrPortFrom(from, uint16(50000+on.client)))
	default: // and where it would not
		return s, s.Bind(netip.AddrPortFrom(from, uint16(600+on.client)))
	}
}

// pair connects a client and accepts it.
func (on *stage) pair() (nstest.Pair, error) {
	client, err := on.socket()
	if err != nil {
		return nstest.Pair{}, err
	}
	if err := client.Connect(on.at); err != nil {
		return nstest.Pair{}, err
	}
	server, err := on.listener.Accept()
	if err != nil {
		return nstest.Pair{}, err
	}
	return nstest.Pair{Client: client, Server: on.keep(server)}, nil
}

// closed is the first half of an orderly close by one end of a new pair.
func (on *stage) closed(side nstest.Side) (active, passive nstest.Socket, err error) {
	p, err := on.pair()
	if err != nil {
		return -1, -1, err
	}
	active, passive = p.Client, p.Server
	if side == nstest.ServerSide {
		active, passive = passive, active
	}
	err = active.CloseWrite()
	if err == nil {
		err = active.Await(unix.BPF_TCP_FIN_WAIT2)
	}
	if err == nil {
		err = passive.Await(unix.BPF_TCP_CLOSE_WAIT)
	}
	return active, passive, err
}

// leave closes a descriptor that is to be no longer.
func (p *population) leave(s nstest.Socket) error {
	p.sockets = slices.DeleteFunc(p.sockets, func(kept nstest.Socket) bool { return kept == s })
	return s.Close()
}

// scenes are ways to make sockets stand still in a state. Deaf sockets take the
// part of hosts that died.
var scenes = []struct {
	name string
	play func(on *stage) error
}{
	{"established", func(on *stage) error {
		p, err := on.pair()
		if err != nil {
			return err
		}
		return p.Client.Send(1 + on.client)
	}},
	{"in the backlog", func(on *stage) error {
		_, at, err := on.listen(0)
		if err != nil {
			return err
		}
		s, err := on.socket()
		if err != nil {
			return err
		}
		return s.Connect(at)
	}},
	{"syn-sent", func(on *stage) error {
		listener, at, err := on.listen(0)
		if err != nil {
			return err
		}
		s, err := on.socket()
		if err != nil {
			return err
		}
		return errors.Join(listener.Deafen(), s.BeginConnect(at))
	}},
	{"syn-recv", func(on *stage) error { // a request socket
		s, err := on.socket()
		if err != nil {
			return err
		}
		return errors.Join(s.Deafen(), s.BeginConnect(on.at))
	}},
	{"syn-recv with data", func(on *stage) error { // a full socket (tcp_fastopen_create_child)
		if !on.fastOpen {
			return nil
		}
		_, at, err := on.listen(0) // whose queue has the socket already
		if err != nil {
			return err
		}
		s, err := on.socket()
		if err != nil {
			return err
		}
		if err := s.Deafen(); err != nil {
			return err
		}
		// The data goes with the SYN (RFC 7413).
		err = unix.Sendto(int(s), make([]byte, 100), unix.MSG_FASTOPEN|unix.MSG_DONTWAIT, nstest.Sockaddr(at))
		if errors.Is(err, unix.EINPROGRESS) {
			err = nil
		}
		return err
	}},
	{"fin-wait-1", func(on *stage) error {
		p, err := on.pair()
		if err != nil {
			return err
		}
		return errors.Join(p.Server.Deafen(), p.Client.CloseWrite(), p.Client.Await(unix.BPF_TCP_FIN_WAIT1))
	}},
	{"fin-wait-1 without descriptor", func(on *stage) error {
		p, err := on.pair()
		if err != nil {
			return err
		}
		return errors.Join(p.Server.Deafen(), on.leave(p.Client))
	}},
	{"fin-wait-2", func(on *stage) error {
		_, _, err := on.closed(nstest.ClientSide)
		return err
	}},
	{"fin-wait-2 without descriptor", func(on *stage) error {
		active, _, err := on.closed(nstest.ServerSide)
		if err != nil {
			return err
		}
		// For more than TCP_TIMEWAIT_LEN, tcp_close keeps the full socket.
		err = unix.SetsockoptInt(int(active), unix.IPPROTO_TCP, unix.TCP_LINGER2, 120)
		return errors.Join(err, on.leave(active))
	}},
	{"fin-wait-2 minisocket", func(on *stage) error {
		active, _, err := on.closed(nstest.ClientSide)
		if err != nil {
			return err
		}
		return on.leave(active)
	}},
	{"time-wait", func(on *stage) error {
		active, passive, err := on.closed(nstest.Side(on.client % 2))
		if err != nil {
			return err
		}
		// Its descriptor has a closed socket then.
		return errors.Join(on.leave(passive), active.Await(unix.BPF_TCP_CLOSE), on.leave(active))
	}},
	{"close-wait", func(on *stage) error {
		_, _, err := on.closed(nstest.Side(on.client % 2))
		return err
	}},
	{"last-ack", func(on *stage) error {
		active, passive, err := on.closed(nstest.Side(on.client % 2))
		if err != nil {
			return err
		}
		return errors.Join(active.Deafen(), passive.CloseWrite(), passive.Await(unix.BPF_TCP_LAST_ACK))
	}},
	{"closing", func(on *stage) error {
		p, err := on.pair()
		if err != nil {
			return err
		}
		// The FINs cross, and the client hears the server's when it is sent again.
		on.open = append(on.open, func() error { return p.Client.Await(unix.BPF_TCP_CLOSING) })
		return errors.Join(p.Client.Deafen(), p.Server.Deafen(), p.Client.CloseWrite(), p.Server.CloseWrite(), p.Client.Hear())
	}},
	{"bound", func(on *stage) error {
		_, err := on.socket()
		return err
	}},
	{"both families", func(on *stage) error {
		if !on.addr.Is4() {
			return nil
		}
		both := *on
		both.addr = netip.IPv6Unspecified()
		listener, at, err := both.listen(0)
		if err != nil {
			return err
		}
		client, err := on.socket()
		if err != nil {
			return err
		}
		if err := client.Connect(netip.AddrPortFrom(on.addr, at.Port())); err != nil {
			return err
		}
		server, err := listener.Accept()
		if err != nil {
			return err
		}
		on.keep(server) // an IPv6 socket
		return nil
	}},
}

// tcpTable lists the states in the namespace's two tables of TCP sockets.
func tcpTable(t *testing.T) (states []string) {
	t.Helper()
	for _, file := range []string{"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"} {
		table, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(table)) {
			if fields := strings.Fields(line); fields[0] != "sl" {
				states = append(states, fields[3])
			}
		}
	}
	return states
}

func TestPopulationIsInEveryState(t *testing.T) {
	nstest.Isolate(t)
	p, err := newPopulation()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, lack := range p.Lacks {
		t.Log("left out: ", lack)
	}
	// In hexadecimal, as the kernel prints them; 07 is in no table.
	want := []string{"01", "02", "03", "04", "05", "06", "08", "09", "0A", "0B"}
	deadline := time.Now().Add(30 * time.Second)
	for {
		states := tcpTable(t)
		missing := slices.DeleteFunc(slices.Clone(want), func(s string) bool { return slices.Contains(states, s) })
		if len(missing) == 0 && len(states) >= 200 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d sockets, none in the states %v", len(states), missing)
		}
		time.Sleep(time.Millisecond)
	}
}
