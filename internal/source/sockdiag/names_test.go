package sockdiag

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/cgroup"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// openNamed opens a Conn that names cgroups, too.
func openNamed(t testing.TB) *Conn {
	t.Helper()
	nstest.Isolate(t)
	c := must(Open(must(sock.Clock())(t), cgroup.New()))(t)
	t.Cleanup(func() { c.Close() })
	return c
}

// client connects a socket that was prepared before. The connection ends with the
// test.
func client(t *testing.T, to netip.AddrPort, prepare func(s nstest.Socket) error) nstest.Socket {
	t.Helper()
	s := must(nstest.New(to.Addr(), unix.IPPROTO_TCP))(t)
	t.Cleanup(func() { s.Close() })
	check(t, prepare(s))
	check(t, s.Connect(to))
	return s
}

func TestMarkAndDevice(t *testing.T) {
	for name, perFamily := range forms {
		t.Run(name, func(t *testing.T) {
			c := openNamed(t)
			c.perFamily = perFamily
			const loopback = "lo"
			veth := must(nstest.NewDevice("dog0"))(t)
			check(t, netlink.LinkAddAltName(veth, "enp9s9"))
			check(t, netlink.LinkAddAltName(veth, "dog0-again"))
			check(t, nstest.AddAddress(veth, netip.MustParsePrefix("fe80::1/64")))
			scoped := netip.MustParseAddr("fe80::1").WithZone(fmt.Sprint(uint32(veth.Attrs().Index)))
			at := must(listen(t, nstest.V4).Local())(t)

			cookies := make(map[uint64]string)
			know := func(name string, s nstest.Socket) nstest.Socket {
				cookies[must(s.Cookie())(t)] = name
				return s
			}
			know("plain", client(t, at, func(nstest.Socket) error { return nil }))
			know("marked", client(t, at, func(s nstest.Socket) error { return s.Mark(0x80000012) }))
			know("bound", client(t, at, func(s nstest.Socket) error { return s.BindToDevice(loopback) }))
			toLink := know("scoped", must(nstest.New(scoped, unix.IPPROTO_TCP))(t))
			defer toLink.Close()
			check(t, toLink.Mark(0x10))
			// Not to wait for the answer: a new link drops the first segments.
			check(t, toLink.BeginConnect(must(listen(t, scoped).Local())(t)))
			minisocket := know("minisocket", must(nstest.New(nstest.V4, unix.IPPROTO_TCP))(t))
			check(t, minisocket.Mark(0x12))
			check(t, minisocket.BindToDevice(loopback))
			l := listen(t, nstest.V4)
			check(t, minisocket.Connect(must(l.Local())(t)))
			server := must(l.Accept())(t)
			check(t, minisocket.Close())
			check(t, server.Close())
			only(t, c, ssfilter.TimeWait)

			type line struct {
				iface  uint32
				device string
				mark   uint32
				told   bool
			}
			all := map[string]line{
				"plain":      {0, "", 0, true},
				"marked":     {0, "", 0x80000012, true},
				"bound":      {1, loopback, 0, true},
				"scoped":     {uint32(veth.Attrs().Index), "dog0", 0x10, true},
				"minisocket": {1, loopback, 0x12, true},
			}
			var ids []sock.ID
			tests := map[string][]string{
				"sport >= :0":             {"plain", "marked", "bound", "scoped", "minisocket"},
				"fwmark = 0x80000012":     {"marked"},
				"fwmark = 0x10/0x10":      {"marked", "scoped", "minisocket"},
				"fwmark = 0x2/0xf":        {"marked", "minisocket"},
				"fwmark = 0":              {"plain", "bound"},
				"not fwmark = 0x10/0x10":  {"plain", "bound"},
				"dev lo":                  {"bound", "minisocket"},
				"dev 1":                   {"bound", "minisocket"},
				"dev dog0":                {"scoped"},
				"dev dog1":                {},
				"dev enp9s9":              {"scoped"},
				"dev dog0-again":          {"scoped"},
				"dev dog0-":               {},
				"not dev enp9s9":          {"plain", "marked", "bound", "minisocket"},
				"not dev lo":              {"plain", "marked", "scoped"},
				"not dev dog1":            {"plain", "marked", "bound", "scoped", "minisocket"},
				"dev dog0 or fwmark = 18": {"scoped", "minisocket"},
			}
			for where, names := range tests {
				want, got := make(map[string]line), make(map[string]line)
				for _, name := range names {
					want[name] = all[name]
				}
				q := sock.Query{States: ssfilter.Connected, Where: expr(t, where)}
				for _, s := range scan(t, c, q) {
					if name, ok := cookies[s.ID.Cookie]; ok {
						got[name] = line{s.Iface, s.Device, s.Mark, s.HasMark}
						ids = append(ids, s.ID)
					}
				}
				if diff := cmp.Diff(want, got, cmp.AllowUnexported(line{})); diff != "" {
					t.Errorf("%s (-want +got):\n%s", where, diff)
				}
				for _, s := range scan(t, c, sock.Query{States: ssfilter.Connected}) {
					name, ok := cookies[s.ID.Cookie]
					if by := q.Where.Eval(&s.Conn) == ssfilter.True; ok && by != slices.Contains(names, name) {
						t.Errorf("%s: evaluated for %s it is %v", where, name, by)
					}
				}
				if c.InUserSpace() != "" {
					t.Errorf("%s: in user space because %s", where, c.InUserSpace())
				}
			}
			for _, a := range must(c.Lookup(ids, nil))(t) {
				s := a.Socket
				got, want := line{s.Iface, s.Device, s.Mark, s.HasMark}, all[cookies[a.ID.Cookie]]
				if got != want {
					t.Errorf("answer %+v, want %+v", got, want)
				}
			}
		})
	}
}

// Without CAP_NET_ADMIN the kernel neither tells a mark nor selects by it.
func TestMarkWithoutCapability(t *testing.T) {
	c := openKernel(t)
	l, other := listen(t, nstest.V4), listen(t, nstest.V4)
	at, elsewhere := must(l.Local())(t), must(other.Local())(t)
	mark := func(s nstest.Socket) error { return s.Mark(5) }
	client(t, at, mark)
	for range 20 {
		client(t, elsewhere, mark)
	}
	setNetAdmin(t, true, false)
	const refused = "the kernel refuses the filter: operation not permitted"
	s := &spy{link: c.link}
	c.link = s
	tests := []struct {
		where      string
		seen, sent int
		why        string
	}{
		{"fwmark = 5", 0, 42, refused},
		{"not fwmark = 5", 0, 42, refused},
		{fmt.Sprintf("fwmark = 5 or dport = :%d", at.Port()), 1, 42, refused},
		{fmt.Sprintf("fwmark = 5 and dport = :%d", at.Port()), 0, 1, refused},
		{fmt.Sprintf("dport = :%d", at.Port()), 1, 1, ""},
	}
	for _, tt := range tests {
		s.sockets = 0
		seen := scan(t, c, sock.Query{States: ssfilter.Of(ssfilter.Established), Where: expr(t, tt.where)})
		if len(seen) != tt.seen || s.sockets != tt.sent || c.InUserSpace() != tt.why {
			t.Errorf("%s: saw %d of %d, in user space because %q, want %d of %d, %q",
				tt.where, len(seen), s.sockets, c.InUserSpace(), tt.seen, tt.sent, tt.why)
		}
		for _, s := range seen {
			if s.HasMark {
				t.Errorf("%s: a mark was told", tt.where)
			}
		}
	}
	check(t, RaiseNetAdmin())
	if seen := scan(t, c, sock.Query{States: ssfilter.AllStates, Where: expr(t, "fwmark = 5")}); len(seen) != 21 || c.InUserSpace() != "" {
		t.Errorf("with the capability %d sockets, in user space because %q, want 21", len(seen), c.InUserSpace())
	}
}

// ownCgroup is the path of the cgroup of this process.
func ownCgroup(t *testing.T) string {
	t.Helper()
	for line := range strings.Lines(string(must(os.ReadFile("/proc/self/cgroup"))(t))) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return path
		}
	}
	t.Fatal("this process is in no cgroup")
	return ""
}

func TestCgroup(t *testing.T) {
	for name, perFamily := range forms {
		t.Run(name, func(t *testing.T) {
			c := openNamed(t)
			c.perFamily = perFamily
			home, err := nstest.OwnCgroup()
			if err != nil {
				t.Skip("needs cgroup2: ", err)
			}
			at := must(listen(t, nstest.V4).Local())(t)
			plain := func(nstest.Socket) error { return nil }
			cookies := map[uint64]string{must(client(t, at, plain).Cookie())(t): "home"}
			scan(t, c, sock.Query{States: ssfilter.AllStates}) // the new one is not known yet

			inside, err := home.New(fmt.Sprintf("sockdog-test-%d", os.Getpid()))
			if err != nil {
				t.Skip("needs a cgroup of its own: ", err)
			}
			t.Cleanup(func() {
				home.Enter() // in vain where all went well
				inside.Remove()
			})
			if err := inside.Enter(); err != nil {
				t.Skip("needs a cgroup of its own: ", err)
			}
			cookies[must(client(t, at, plain).Cookie())(t)] = "inside"
			check(t, home.Enter())

			l := listen(t, nstest.V4)
			p := pair(t, l)
			cookies[must(p.Client.Cookie())(t)] = "minisocket"
			check(t, p.Close())
			only(t, c, ssfilter.TimeWait)
			deaf := must(nstest.New(nstest.V4, unix.IPPROTO_TCP))(t)
			defer deaf.Close()
			check(t, deaf.Deafen()) // to the SYN-ACK
			check(t, deaf.BeginConnect(must(l.Local())(t)))
			cookies[only(t, c, ssfilter.SynRecv).ID.Cookie] = "request"

			own := ownCgroup(t)
			path := filepath.Join(own, filepath.Base(string(inside)))
			want := map[string]string{"home": own, "inside": path, "minisocket": "", "request": ""}
			seen := func(where string) map[string]string {
				q := sock.Query{States: ssfilter.Connected}
				if where != "" {
					q.Where = expr(t, where)
				}
				got := make(map[string]string)
				for _, s := range scan(t, c, q) {
					name, ok := cookies[s.ID.Cookie]
					if !ok {
						continue
					}
					got[name] = s.Cgroup
					if a := ask(t, c, s.ID); a.Socket.Cgroup != s.Cgroup {
						t.Errorf("%s: an answer says %q, the scan %q", name, a.Socket.Cgroup, s.Cgroup)
					}
				}
				return got
			}
			if diff := cmp.Diff(want, seen("")); diff != "" {
				t.Errorf("cgroups (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(map[string]string{"inside": path}, seen("cgroup "+path)); diff != "" {
				t.Errorf("of that cgroup (-want +got):\n%s", diff)
			}
			rest := map[string]string{"home": want["home"], "minisocket": "", "request": ""}
			if diff := cmp.Diff(rest, seen("not cgroup "+path)); diff != "" {
				t.Errorf("of the others (-want +got):\n%s", diff)
			}

			// Its sockets keep the name of a cgroup that is gone, which is nobody's now.
			check(t, inside.Remove())
			if diff := cmp.Diff(want, seen("")); diff != "" {
				t.Errorf("cgroups after it is gone (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(map[string]string{}, seen("cgroup "+path)); diff != "" {
				t.Errorf("of the cgroup that is gone (-want +got):\n%s", diff)
			}
		})
	}
}

// A name that a device was given since the last answer counts at once where an
// act may follow: a rule may exclude it.
func TestAskKnowsNewNames(t *testing.T) {
	c := openNamed(t)
	loopback := nstest.Loopback
	at := must(listen(t, nstest.V4).Local())(t)
	bound := client(t, at, func(s nstest.Socket) error { return s.BindToDevice("lo") })
	var ids []sock.ID
	for _, s := range scan(t, c, sock.Query{States: ssfilter.Of(ssfilter.Established)}) {
		if s.ID.Cookie == must(bound.Cookie())(t) {
			ids = append(ids, s.ID)
		}
	}
	wan := expr(t, "dev wan")
	for _, want := range []ssfilter.Tri{ssfilter.False, ssfilter.True} {
		answers := must(c.Lookup(ids, nil))(t)
		if len(answers) != 1 || wan.Eval(&answers[0].Socket.Conn) != want {
			t.Errorf("answers %+v, want one for which dev wan is %d", answers, want)
		}
		if want == ssfilter.False {
			check(t, netlink.LinkAddAltName(loopback, "wan"))
		}
	}
}
