package ssfilter_test

import (
	"cmp"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/cgroup"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/source/sockdiag"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

var (
	filters = flag.Int("filters", 2000, "compare this many filters with ss")
	seed    = flag.Uint64("seed", 1, "seed of the filters to compare with ss")
)

// TestDifferential compares what random filters select from real sockets of every
// kind: by ss, by bytecode in the kernel, by Eval on a full dump, and by the scans
// that the commands and the daemon make. The filters know by themselves what they
// mean, and where and why ss takes them otherwise; nothing else may differ.
func TestDifferential(t *testing.T) {
	needSS(t)
	// Many of the sockets last for a minute only, so each population meets a part
	// of the filters.
	const parts = 4
	for part := range uint64(parts) {
		t.Run(fmt.Sprint("seed ", *seed+part), func(t *testing.T) {
			d := newDifferential(t, *seed+part)
			t.Parallel() // not before: a population takes the whole process through cgroups
			n := *filters / parts
			for range n {
				d.compare(t, d.filter())
			}
			t.Logf("of %d filters on %d sockets %d chose", n, len(d.sockets), d.choosy)
			for why, n := range d.differed {
				t.Logf("ss differed %d times: %s", n, why)
			}
			if d.choosy < n/2 {
				t.Errorf("of %d filters only %d selected some sockets and not all: they prove little", n, d.choosy)
			}
		})
	}
}

// Where ss is known to differ, an example each.
func TestKnownDifferences(t *testing.T) {
	needSS(t)
	d := newDifferential(t, *seed)
	for _, tt := range []struct {
		filter string
		more   bool // ss has more, or else fewer
	}{
		{"autobound", false},
		{"dst [::ffff:127.0.0.1]", false},
		{"src [::/0]", true},
		{"not src 0.0.0.0/0", false},
		{"not src 127.0.0.1", false},
		{"dev = lo and src 127.0.0.1", true},
		{"src inet:*", false},
		{"not src inet:*", false},
		{"sport = 22 or src inet6:[::1]", false},
	} {
		before := d.table
		_, ours, theirs := d.selectWith(t, tt.filter)
		still := d.still(t, before)
		for _, selected := range []map[uint64]bool{ours, theirs} {
			maps.DeleteFunc(selected, func(cookie uint64, _ bool) bool { return still[cookie] == nil })
		}
		few, many := ours, theirs
		if !tt.more {
			few, many = many, few
		}
		outside := maps.Clone(few)
		maps.DeleteFunc(outside, func(cookie uint64, _ bool) bool { return many[cookie] })
		switch {
		case len(outside) > 0:
			t.Errorf("%s: ss has %d sockets and we %d, not the ones of the other", tt.filter, len(theirs), len(ours))
		case len(few) == len(many) && strings.Contains(ssVersion(t), "iproute2-6.1."):
			t.Errorf("%s: ss has the same %d sockets", tt.filter, len(many))
		}
	}
}

func needSS(t *testing.T) {
	t.Helper()
	nstest.Need(t)
	if _, err := exec.LookPath("ss"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs ss, of iproute2: ", err)
		}
		t.Skip("needs ss, of iproute2: ", err)
	}
}

func ssVersion(t *testing.T) string {
	t.Helper()
	version, err := exec.Command("ss", "-V").Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(version)
}

// differential is a population of sockets, and the ways to look at it.
type differential struct {
	generator
	fd        int            // a netlink socket for programs
	conn      *sockdiag.Conn // for looks
	names     names
	ephemeral ssfilter.PortRange
	hidden    map[uint64]hidden
	table     map[uint64]*subject // as it was last

	choosy   int            // filters that selected some sockets, and not all
	differed map[string]int // how often ss did, by reason
}

// A subject is a socket as the kernel shows it to a dump, with what it says of it
// to programs only.
type subject struct {
	sock.Socket
	known     ssfilter.Conn      // nothing of it is unknown
	ephemeral ssfilter.PortRange // net.ipv4.ip_local_port_range
}

// hidden is what a dump does not tell, or not on every kernel.
type hidden struct {
	mark      uint32
	autobound bool
}

// names are the kernel's numbers, for programs.
type names struct{ cgroups *cgroup.Tree }

func (names) DeviceIndex(name string) (uint32, bool) {
	device, err := net.InterfaceByName(name)
	if err != nil {
		return 0, false
	}
	return uint32(device.Index), true
}

func (n names) CgroupID(path string) (uint64, bool) { return n.cgroups.ID(path) }

// newDifferential moves the test into a namespace of its own.
func newDifferential(t *testing.T, seed uint64) *differential {
	t.Helper()
	// With a table of its own, so that a dump does not walk over all the sockets of
	// the machine. Kernels before 6.1 have none to give.
	if err := nstest.Sysctl("net.ipv4.tcp_child_ehash_entries", "1024"); err != nil {
		t.Log(err)
	}
	nstest.Isolate(t)
	p, err := newPopulation()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, lack := range p.Lacks {
		t.Log("not compared: ", lack)
	}
	cgroups := cgroup.New()
	start := time.Now()
	conn, err := sockdiag.Open(func() sock.Instant { return sock.Instant(time.Since(start)) }, cgroups)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	d := &differential{
		generator: generator{Rand: rand.New(rand.NewPCG(seed, 0x55)), devices: p.Devices},
		fd:        diagSocket(t), conn: conn, names: names{cgroups}, differed: make(map[string]int),
	}
	for _, group := range p.Cgroups {
		path := strings.TrimPrefix(strings.TrimPrefix(string(group), "/sys/fs/cgroup"), "/unified")
		d.cgroups = append(d.cgroups, namedCgroup{string(group), "/" + strings.TrimPrefix(path, "/")})
	}
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscan(string(text), &d.ephemeral.First, &d.ephemeral.Last); err != nil {
		t.Fatal(err)
	}
	d.settle(t)
	return d
}

// settle waits until the sockets are in all states.
func (d *differential) settle(t *testing.T) {
	t.Helper()
	want := everything &^ ssfilter.Of(ssfilter.Close) // such a socket is in no table
	deadline := time.Now().Add(10 * time.Second)
	for {
		d.ask(t)
		table := d.scan(t)
		var states ssfilter.StateSet
		for _, s := range table {
			states |= ssfilter.Of(s.State)
		}
		if states&want == want && len(table) >= 200 {
			d.table = table
			for _, s := range table {
				d.sockets = append(d.sockets, s)
			}
			slices.SortFunc(d.sockets, func(a, b *subject) int {
				return cmp.Or(cmp.Compare(a.State, b.State), a.Src.Compare(b.Src), a.Dst.Compare(b.Dst))
			})
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d sockets, none in the states %v", len(table), want&^states)
		}
		time.Sleep(time.Millisecond)
	}
}

// everything is the states of all sockets that a program can be asked about.
const everything = ssfilter.AllStates | 1<<ssfilter.BoundInactive

// scan is the whole table, by cookie.
func (d *differential) scan(t *testing.T) map[uint64]*subject {
	t.Helper()
	table := make(map[uint64]*subject)
	err := d.conn.Scan(sock.Query{States: everything}, func(s *sock.Socket, _ sock.Instant) {
		know, ok := d.hidden[s.ID.Cookie]
		if !ok {
			return // since the kernel was asked for what it hides
		}
		x := &subject{Socket: *s, known: s.Conn, ephemeral: d.ephemeral}
		x.known.Mark, x.known.HasMark = know.mark, true
		x.known.Autobound = ssfilter.TriOf(know.autobound)
		if x.known.Cgroup == "" {
			x.known.Cgroup = "none" // inet_diag_bc_sk says 0
		}
		table[s.ID.Cookie] = x
	})
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// still looks again, and returns what is as it was before.
func (d *differential) still(t *testing.T, before map[uint64]*subject) map[uint64]*subject {
	t.Helper()
	d.table = d.scan(t)
	same := maps.Clone(d.table)
	maps.DeleteFunc(same, func(cookie uint64, s *subject) bool {
		was := before[cookie]
		return was == nil || was.Conn != s.Conn
	})
	return same
}

// ask finds out with programs written by hand what the kernel tells to no dump.
func (d *differential) ask(t *testing.T) {
	t.Helper()
	d.hidden = make(map[uint64]hidden)
	for _, mark := range populationMarks {
		const bcMarkCond = 10
		code := binary.NativeEndian.AppendUint32([]byte{bcMarkCond, 12, 16, 0}, mark)
		for cookie := range d.run(t, everything, binary.NativeEndian.AppendUint32(code, math.MaxUint32)) {
			d.hidden[cookie] = hidden{mark: mark}
		}
	}
	const bcAuto = 6
	for cookie := range d.run(t, everything, []byte{bcAuto, 4, 8, 0}) {
		if h, ok := d.hidden[cookie]; ok {
			h.autobound = true
			d.hidden[cookie] = h
		}
	}
}

// run is the cookies of the sockets that the kernel selects with a program.
func (d *differential) run(t *testing.T, states ssfilter.StateSet, code []byte) map[uint64]bool {
	t.Helper()
	body := make([]byte, 60) // struct inet_diag_req
	body[0] = unix.AF_INET
	binary.NativeEndian.PutUint32(body[52:], uint32(states))
	const tcpdiagGetsock = 18
	cookies := make(map[uint64]bool)
	err := answers(t, d.fd, message(tcpdiagGetsock, body, code), func(msg []byte) {
		cookies[binary.NativeEndian.Uint64(msg[44:])] = true
	})
	if err != nil {
		t.Fatalf("the kernel refuses % x: %v", code, err)
	}
	return cookies
}

// ss is the cookies of the sockets that ss prints.
func ss(t *testing.T, text string) map[uint64]bool {
	t.Helper()
	args := []string{"-H", "-t", "-n", "-O", "-e"}
	if !strings.HasPrefix(text, "state ") && !strings.HasPrefix(text, "excl") {
		args = append(args, "-a")
	}
	out, err := exec.Command("ss", append(args, strings.Fields(text)...)...).Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		t.Fatalf("ss %s: %v: %s", text, err, exit.Stderr)
	}
	if err != nil {
		t.Fatal(err)
	}
	cookies := make(map[uint64]bool)
	for _, match := range skField.FindAllSubmatch(out, -1) {
		cookie, err := strconv.ParseUint(string(match[1]), 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		cookies[cookie] = true
	}
	return cookies
}

var skField = regexp.MustCompile(`\bsk:([0-9a-f]+)\b`)

// selectWith selects by text: what it means to us, with the states, and the
// cookies that the kernel and ss select.
func (d *differential) selectWith(t *testing.T, text string) (parsed ssfilter.Filter, byKernel, bySS map[uint64]bool) {
	t.Helper()
	parsed, err := ssfilter.ParseFilter(text, nil)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	if parsed.States == 0 {
		parsed.States = ssfilter.AllStates
	}
	var code []byte
	if parsed.Where != nil {
		if code, err = ssfilter.Compile(parsed.Where, d.names); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
	}
	return parsed, d.run(t, parsed.States, code), ss(t, text)
}

// compare selects with f in all ways. While sockets go, a dump can skip others
// that stay (inet_diag_dump_icsk counts its place in a chain), so a difference
// counts if it stays.
func (d *differential) compare(t *testing.T, f filter) {
	t.Helper()
	var wrong string
	for range 3 {
		if wrong = d.compareOnce(t, &f); wrong == "" {
			return
		}
	}
	t.Fatalf("%s: %s", f.text, wrong)
}

// compareOnce judges every socket that stands still meanwhile, and says what is
// wrong.
func (d *differential) compareOnce(t *testing.T, f *filter) string {
	t.Helper()
	before := d.table
	parsed, byKernel, bySS := d.selectWith(t, f.text)
	byScan := make(map[uint64]bool)
	err := d.conn.Scan(sock.Query{States: parsed.States, Where: parsed.Where}, func(s *sock.Socket, _ sock.Instant) {
		byScan[s.ID.Cookie] = true
	})
	if err != nil {
		return err.Error()
	}
	if why := d.conn.InUserSpace(); why != "" {
		return "not matched in the kernel: " + why
	}
	eval := func(c *ssfilter.Conn) ssfilter.Tri {
		switch {
		case !parsed.States.Has(c.State):
			return ssfilter.False
		case parsed.Where == nil:
			return ssfilter.True
		}
		return parsed.Where.Eval(c)
	}
	judged := d.still(t, before)
	if len(judged) < len(d.sockets)/2 {
		return fmt.Sprintf("only %d of %d sockets stood still", len(judged), len(d.sockets))
	}
	selected := 0
	reasons := make(map[string]int)
	for cookie, s := range judged {
		want := f.states.Has(s.State) && f.means(s)
		if want {
			selected++
		}
		if got := byKernel[cookie]; got != want {
			return fmt.Sprintf("the kernel says %v of %v", got, s)
		}
		if got := byScan[cookie]; got != want {
			return fmt.Sprintf("a look says %v of %v", got, s)
		}
		if got := eval(&s.known); got != ssfilter.TriOf(want) {
			return fmt.Sprintf("Eval says %d of %v", got, s)
		}
		// It may not know what the dump does not tell. What it knows is right.
		if got := eval(&s.Conn); got != ssfilter.TriOf(want) && (got != ssfilter.Unknown || !f.hides(s)) {
			return fmt.Sprintf("Eval, knowing no more than the dump, says %d of %v", got, s)
		}
		if s.State == ssfilter.BoundInactive {
			continue // which some releases of ss do not know, and others count in groups
		}
		if got := bySS[cookie]; got != want {
			if got != (f.states.Has(s.State) && f.ss(s)) {
				return fmt.Sprintf("ss says %v of %v, and nothing known makes it differ", got, s)
			}
			reasons[f.reason(s)]++
		}
	}
	for why, n := range reasons {
		d.differed[why] += n
	}
	if 0 < selected && selected < len(judged) {
		d.choosy++
	}
	return ""
}

func (s *subject) String() string {
	return fmt.Sprintf("%v %v -> %v, family %d, device %d %q, mark %#x (told: %v), cgroup %q, autobound %d",
		s.State, s.Src, s.Dst, s.ID.Family, s.Iface, s.Device, s.known.Mark, s.HasMark, s.Cgroup, s.known.Autobound)
}
