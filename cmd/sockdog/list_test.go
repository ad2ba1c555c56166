package main

import (
	"encoding/json"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/holders"
	"github.com/sockdog/sockdog/internal/host"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// TestListMany lists more sockets than one answer of the kernel holds, in several
// orders and forms.
func TestListMany(t *testing.T) {
	nstest.Need(t)
	nstest.Isolate(t)
	const n = 4196
	leak, err := nstest.CloseWait(nstest.V4, nstest.ClientSide, n)
	if err != nil {
		t.Fatal(err)
	}
	defer leak.Close()
	stuck := make(map[string]bool)
	for _, s := range leak.Stuck {
		at, err := s.Local()
		if err != nil {
			t.Fatal(err)
		}
		stuck[at.String()] = true
	}
	for _, how := range [][]string{
		{"state", "close-wait"},
		{"state", "close-wait", "-o=wide"},
		{"state", "close-wait", "--sort=dev"},
		{"state", "close-wait", "--sort=user"},
		{"state", "close-wait", "--sort=peer"},
	} { // no subtests: the thread has the namespace
		cmd := listCommand()
		var out strings.Builder
		cmd.SetOut(&out)
		cmd.SetArgs(append([]string{"-H"}, how...))
		if err := cmd.Execute(); err != nil {
			t.Fatal(err)
		}
		listed := make(map[string]bool)
		for line := range strings.Lines(out.String()) {
			fields := strings.Fields(line)
			if len(fields) < 8 || !stuck[fields[3]] || fields[7] != "eof-unread" {
				t.Fatalf("list %v: line %q", how, line)
			}
			listed[fields[3]] = true
		}
		if lines := strings.Count(out.String(), "\n"); len(listed) != n || lines != n {
			t.Errorf("list %v: %d sockets in %d lines, want %d", how, len(listed), lines, n)
		}
	}
}

// A Multipath TCP connection and its subflow are marked in every form, and no other
// connection is.
func TestListMPTCP(t *testing.T) {
	nstest.Need(t)
	nstest.Isolate(t)
	l := must(nstest.ListenAt(netip.AddrPortFrom(nstest.V4, 0), unix.IPPROTO_MPTCP))(t)
	defer l.Close()
	at := must(l.Local())(t)
	client := must(nstest.New(nstest.V4, unix.IPPROTO_MPTCP))(t)
	defer client.Close()
	noErr(t, client.Connect(at))
	plain := must(nstest.Connect(at))(t) // which the listener takes as well
	defer plain.Close()
	list := func(args ...string) string {
		t.Helper()
		cmd := listCommand()
		var out strings.Builder
		cmd.SetOut(&out)
		cmd.SetArgs(append(args, "--daemon=off", "dport", "=", strconv.Itoa(int(at.Port()))))
		noErr(t, cmd.Execute())
		return out.String()
	}
	subflow, other := must(client.Local())(t).String(), must(plain.Local())(t).String()
	verdicts := make(map[string][]string)
	for line := range strings.Lines(list("-H", "--sort=verdict")) {
		fields := strings.Fields(line)
		verdicts[fields[3]] = append(verdicts[fields[3]], fields[len(fields)-1])
	}
	want := map[string][]string{subflow: {"mptcp", "subflow"}, other: {"-"}}
	if diff := cmp.Diff(want, verdicts); diff != "" {
		t.Errorf("verdicts (-want +got):\n%s", diff)
	}
	if got := list("-H", "--group-by=verdict"); strings.Count(got, "\n") != 3 {
		t.Errorf("groups:\n%swant one each of connections, subflows and others", got)
	}
	if got := list("-H", "--summary"); !strings.Contains(got, "\nMPTCP ESTABLISHED  1") || !strings.Contains(got, "ESTABLISHED        2") {
		t.Errorf("sums:\n%s", got)
	}
	type object struct {
		Src, State     string
		MPTCP, Subflow bool
		PID            int
	}
	var objects []object
	noErr(t, json.Unmarshal([]byte(list("-o=json", "--sort=verdict")), &objects))
	self := os.Getpid()
	wanted := []object{{subflow, "established", true, false, self}, {subflow, "established", true, true, self}, {other, "established", false, false, self}}
	if diff := cmp.Diff(wanted, objects); diff != "" {
		t.Errorf("objects (-want +got):\n%s", diff)
	}
	server := must(l.Accept())(t)
	noErr(t, server.Close())
	if err := client.Receive(1); err == nil {
		t.Fatal("no end of the stream")
	}
	if got := list("-H", "state", "close-wait"); !strings.HasSuffix(got, "mptcp\n") || strings.Count(got, "\n") != 1 {
		t.Errorf("in CLOSE_WAIT is\n%swant the connection", got)
	}
	kill := killCommand()
	var out strings.Builder
	kill.SetOut(&out)
	kill.SetArgs([]string{"--yes", "--daemon=off", "state", "close-wait", "dport", "=", strconv.Itoa(int(at.Port()))})
	if err := kill.Execute(); err == nil || !strings.Contains(out.String(), "destroyed 0, left alone 1") || !strings.Contains(err.Error(), "Multipath TCP") {
		t.Errorf("kill: error %v, and it said:\n%s", err, out.String())
	}
}

func must[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		noErr(t, err)
		return v
	}
}

func noErr(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A link-local address has its zone, by the name of the device.
func TestListZones(t *testing.T) {
	nstest.Need(t)
	nstest.Isolate(t)
	device := must(nstest.NewDevice("dog0"))(t)
	noErr(t, nstest.AddAddress(device, netip.MustParsePrefix("fe80::d06/64")))
	zoned := netip.MustParseAddr("fe80::d06").WithZone(strconv.Itoa(device.Attrs().Index))
	l := must(nstest.ListenAt(netip.AddrPortFrom(zoned, 5432), unix.IPPROTO_TCP))(t)
	defer l.Close()
	p := must(nstest.NewPair(l))(t)
	defer p.Close()
	const peer = "[fe80::d06%dog0]:5432"
	for _, args := range [][]string{
		{"-H"}, {"-o=wide"}, {"-o=json"}, {"--group-by=peer"}, {"-H", "--sort=peer"}, {"-H", "--sort=process"},
	} {
		cmd := listCommand()
		var out strings.Builder
		cmd.SetOut(&out)
		cmd.SetArgs(append(args, "--daemon=off", "dport", "=", "5432"))
		noErr(t, cmd.Execute())
		if !strings.Contains(out.String(), peer) {
			t.Errorf("list %v has not %s:\n%s", args, peer, out.String())
		}
	}
	kill := killCommand()
	var out strings.Builder
	kill.SetOut(&out)
	kill.SetArgs([]string{"--dry-run", "--daemon=off", "--in-use", "dport", "=", "5432"})
	if err := kill.Execute(); !strings.Contains(out.String(), peer) {
		t.Errorf("kill has not %s: %v\n%s", peer, err, out.String())
	}
}

// Nobody looks for who holds sockets where none is listed, or nothing shows it.
func TestListLooksForHolders(t *testing.T) {
	held := sock.Socket{Conn: ssfilter.Conn{State: ssfilter.CloseWait}, Inode: 7}
	for _, test := range []struct {
		name    string
		args    []string
		sockets []sock.Socket
		want    int // how often
	}{
		{"all fields", []string{"-o=json"}, []sock.Socket{held}, 1},
		{"none is listed", []string{"-o=json"}, nil, 0},
		{"none has a descriptor", []string{"-o=json"}, []sock.Socket{{Conn: held.Conn}}, 0},
		{"no field of owners", []string{"-o=json", "--fields=src,dst"}, []sock.Socket{held}, 0},
		{"by owner", []string{"-o=json", "--fields=src,dst", "--process=nginx"}, []sock.Socket{held}, 1},
		{"by owner, none is listed", []string{"--process=nginx"}, nil, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			var l listing
			cmd := listCommandOf(&l)
			noErr(t, cmd.ParseFlags(append(test.args, "--daemon=off")))
			noErr(t, l.check(cmd, nil))
			l.host = must(host.New())(t)
			l.kernel = listed(test.sockets)
			looked := 0
			l.find = func(inodes map[uint32]struct{}) (holders.Found, error) {
				looked++
				return holders.Found{Complete: true}, nil
			}
			must(l.scan(t.Context(), io.Discard))(t)
			if looked != test.want {
				t.Errorf("looked %d times, want %d", looked, test.want)
			}
		})
	}
}

// listed are the sockets that a scan shows.
type listed []sock.Socket

func (l listed) Scan(_ sock.Query, each func(s *sock.Socket, got sock.Instant)) error {
	for i := range l {
		each(&l[i], 0)
	}
	return nil
}

func (listed) ScanMPTCP(sock.Query, func(*sock.Socket, sock.Instant)) (known bool, err error) {
	return true, nil
}

func (listed) Close() error { return nil }

// A server as Go makes it by default takes connections of Multipath TCP. One that its client has
// closed is found, and named for what it is.
func TestListGoServer(t *testing.T) {
	nstest.Need(t)
	nstest.Isolate(t)
	listener := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	defer listener.Close()
	var dialer net.Dialer
	dialer.SetMultipathTCP(true)
	client := must(dialer.Dial("tcp", listener.Addr().String()))(t)
	server := must(listener.Accept())(t)
	defer server.Close()
	if is := must(server.(*net.TCPConn).MultipathTCP())(t); !is {
		t.Fatal("the connection is not one of Multipath TCP")
	}
	noErr(t, client.Close())
	if _, err := server.Read(make([]byte, 1)); err != io.EOF {
		t.Fatal("no end of the stream: ", err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	cmd := listCommand()
	var out strings.Builder
	cmd.SetOut(&out)
	cmd.SetArgs([]string{"--daemon=off", "-o=json", "--fields=state,mptcp,subflow,pid", "state", "close-wait", "sport", "=", strconv.Itoa(port)})
	noErr(t, cmd.Execute())
	type object struct {
		State          string
		MPTCP, Subflow bool
		PID            int
	}
	var got []object
	noErr(t, json.Unmarshal([]byte(out.String()), &got))
	if diff := cmp.Diff([]object{{"close-wait", true, false, os.Getpid()}}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
