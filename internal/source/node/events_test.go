package node_test

import (
	"errors"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/holders"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/source/events"
	"github.com/sockdog/sockdog/internal/source/node"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// The programs are attached to a cgroup of the test's own, so that they see nobody else's
// sockets. lacking says why there is none.
var (
	own     nstest.Cgroup
	lacking error
)

func enterCgroup() error {
	root, err := events.CgroupRoot()
	if err != nil {
		return err
	}
	programs, err := events.Load(1)
	if err != nil {
		return err
	}
	programs.Close()
	if own, err = nstest.Cgroup(root).New("sockdog-node-test-" + strconv.Itoa(os.Getpid())); err != nil {
		return err
	}
	return own.Enter()
}

func leaveCgroup() {
	if root, err := events.CgroupRoot(); err == nil {
		_ = errors.Join(nstest.Cgroup(root).Enter(), own.Remove())
	}
}

// need skips a test where there is no eBPF.
func need(t *testing.T) { t.Helper(); nstest.SkipWithout(t, "eBPF", lacking) }

// openEvents opens a source whose table tells of all sockets in CLOSE_WAIT
// in a place.
func openEvents(t *testing.T, p *place, c node.Config) (*node.Source, *log) {
	t.Helper()
	need(t)
	c.Kind = node.Events
	s, said := open(t, c)
	s.Want(ssfilter.Of(ssfilter.CloseWait, ssfilter.TimeWait))
	awaitFollowed(t, s, p)
	return s, said
}

func awaitFollowed(t *testing.T, s *node.Source, p *place) {
	t.Helper()
	await(t, "the table follows all connections", func() bool { return s.State().Kind == node.Events && s.Follows(p.Inode) })
}

func clock(t *testing.T) sock.Instant {
	t.Helper()
	now, err := sock.Clock()
	if err != nil {
		t.Fatal(err)
	}
	return now()
}

// Whoever only counts sockets by state has the kernel asked for none of which it has told,
// however long ago.
func TestCountsAskNothing(t *testing.T) {
	var later atomic.Int64
	real, err := sock.Clock()
	if err != nil {
		t.Fatal(err)
	}
	p := newPlace(t)
	s, _ := openEvents(t, p, node.Config{All: true, Now: func() sock.Instant { return real().Add(time.Duration(later.Load())) }})
	p.leak(1)
	x := scanner(t, s)
	told := func(known sock.Freshness) (at sock.Instant) {
		t.Helper()
		if err := x.Scan(sock.Query{States: closeWait, Known: known}, func(k *sock.Socket, got sock.Instant) {
			if k.ID.Netns == p.Inode {
				at = got
			}
		}); err != nil || at == 0 {
			t.Fatalf("told at %d, %v", at, err)
		}
		return at
	}
	first := told(sock.Ever)
	later.Store(int64(time.Minute))
	if again := told(sock.Ever); again != first {
		t.Errorf("a count was told at %d, want what was told at %d", again, first)
	}
	if again := told(sock.Recently); again <= first {
		t.Errorf("a scan a minute later was told at %d, want after %d", again, first)
	}
}

// A scan and an answer tell since when a socket has been stuck that got stuck while the
// table followed it; of an older one, the kernel's own word is all there is.
func TestExactAges(t *testing.T) {
	p := newPlace(t)
	older := p.leak(1)
	s, _ := openEvents(t, p, node.Config{All: true})
	x, l := scanner(t, s), lookup(t, s)
	if found := scan(t, x, closeWait)[p.Inode]; len(found) != 1 || found[0].Entered != 0 || found[0].Inode == 0 {
		t.Fatalf("before: %+v, want the older one, with its time unknown", found)
	}
	before := clock(t)
	newer := p.leak(1)
	after := clock(t)
	for round := range 3 {
		exact := 0
		for _, k := range scan(t, x, closeWait)[p.Inode] {
			if k.Entered == 0 {
				continue
			}
			exact++
			if k.Entered < before || k.Entered > after || !k.Unmoved {
				t.Errorf("round %d: entered at %d, unmoved %v, want within %d and %d", round, k.Entered, k.Unmoved, before, after)
			}
			answers, err := l.Lookup([]sock.ID{k.ID}, nil)
			if err != nil || answers[0].Socket.Entered != k.Entered || !answers[0].Socket.Unmoved {
				t.Errorf("asked: %+v, %v, want it as the scan shows it", answers, err)
			}
		}
		if exact != 1 {
			t.Errorf("round %d: the time of %d sockets is known, want that of one", round, exact)
		}
	}
	newer.Close()
	older.Close()
	if found := scan(t, x, closeWait)[p.Inode]; len(found) != 0 {
		t.Errorf("after: %+v", found)
	}
}

// What a scan shows is never older than what was shown before, by which way ever; and what
// the source keeps is not shown to who asks for fresh answers.
func TestNothingOlderIsShown(t *testing.T) {
	p := newPlace(t)
	s, _ := openEvents(t, p, node.Config{All: true})
	p.leak(1)
	x := scanner(t, s)
	byKernel, err := ssfilter.ParseExpr("autobound or not autobound") // which the table does not tell
	if err != nil {
		t.Fatal(err)
	}
	got := func(q sock.Query) (at sock.Instant) {
		t.Helper()
		q.States = closeWait
		if err := x.Scan(q, func(k *sock.Socket, got sock.Instant) {
			if k.Entered != 0 && k.ID.Netns == p.Inode {
				at = got
			}
		}); err != nil || at == 0 {
			t.Fatalf("shown at %d, %v", at, err)
		}
		return at
	}
	first := got(sock.Query{})
	if kept := got(sock.Query{}); kept != first {
		t.Errorf("shown as of %d, want what is known since %d", kept, first)
	}
	dumped := got(sock.Query{Where: byKernel})
	if kept := got(sock.Query{}); dumped <= first || kept != dumped {
		t.Errorf("known since %d, then %d, and shown as of %d", first, dumped, kept)
	}
	if fresh := got(sock.Query{Known: sock.Now}); fresh <= dumped {
		t.Errorf("shown as of %d, want after %d", fresh, dumped)
	}
}

// A connection that got established before the table was attached, and stuck after, is exact.
func TestOlderConnectionsAreFollowed(t *testing.T) {
	need(t)
	p := newPlace(t)
	var pair nstest.Pair
	p.do(func() error {
		listener, err := nstest.Listen(loopback)
		if err == nil {
			t.Cleanup(func() { listener.Close() })
			pair, err = nstest.NewPair(listener)
		}
		return err
	})
	t.Cleanup(func() { pair.Server.Close() })
	s, _ := openEvents(t, p, node.Config{All: true})
	before := clock(t)
	if err := errors.Join(pair.Client.Close(), pair.Server.Await(uint8(ssfilter.CloseWait))); err != nil {
		t.Fatal(err)
	}
	found := scan(t, scanner(t, s), closeWait)[p.Inode]
	if len(found) != 1 || found[0].Entered < before {
		t.Errorf("%+v, want one that entered after %d", found, before)
	}
}

// Where the table has no room, the scans go on by sock_diag and find all; that is said once. When
// there is room again, the table tells all.
func TestFullTable(t *testing.T) {
	var later atomic.Int64
	real, err := sock.Clock()
	if err != nil {
		t.Fatal(err)
	}
	need(t)
	s, said := open(t, node.Config{Kind: node.Events, Places: 10, Now: func() sock.Instant { return real().Add(time.Duration(later.Load())) }})
	s.Want(closeWait)
	follows := func() bool { return s.State().Kind == node.Events && s.State().Older == 0 }
	await(t, "the table follows all connections", follows)
	leak := func(n int) *nstest.Leak {
		leak, err := nstest.CloseWait(loopback, nstest.ServerSide, n)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { leak.Close() })
		return leak
	}
	x := scanner(t, s)
	first := leak(30)
	await(t, "a scan notices that the table is full", func() bool { scan(t, x, closeWait); return s.State().Lost > 0 })
	second := leak(26)
	leak(4) // which the table lacks
	for range 3 {
		if n := len(scan(t, x, closeWait)[s.Inode()]); n != 60 {
			t.Errorf("%d sockets, want 60", n)
		}
	}
	if n := said.count("full"); n != 1 {
		t.Errorf("it was said %d times that the table is full", n)
	}
	first.Close()
	second.Close()
	if follows() {
		t.Error("the table is believed that was full a moment ago")
	}
	later.Store(int64(2 * time.Minute))
	s.Discover()
	await(t, "the table follows all connections again", follows)
	lost := s.State().Lost
	leak(3)
	found, exact := scan(t, x, closeWait)[s.Inode()], 0
	for _, k := range found {
		if k.Entered != 0 {
			exact++
		}
	}
	if len(found) != 7 || exact != 3 || s.State().Lost != lost {
		t.Errorf("with room again: %d sockets, %d of them exact, and %d lost; want 7, 3 and %d", len(found), exact, s.State().Lost, lost)
	}
}

// Without a rule that asks for what the table tells, nothing is attached.
func TestNothingWanted(t *testing.T) {
	p := newPlace(t)
	s, _ := openEvents(t, p, node.Config{All: true})
	attached := func() int {
		dir, err := os.Open(string(own))
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		programs, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: ebpf.AttachCGroupSockOps})
		if err != nil {
			t.Fatal(err)
		}
		return len(programs.Programs)
	}
	if n := attached(); n != 1 {
		t.Errorf("%d programs are attached, want one", n)
	}
	p.leak(1)
	s.Want(ssfilter.Of(ssfilter.Established, ssfilter.TimeWait))
	await(t, "it is detached", func() bool { return s.State().Kind == node.SockDiag })
	if n := attached(); n != 0 {
		t.Errorf("%d programs are attached", n)
	}
	x := scanner(t, s)
	if found := scan(t, x, closeWait)[p.Inode]; len(found) != 1 || found[0].Entered != 0 {
		t.Errorf("by sock_diag: %+v", found)
	}
	s.Want(closeWait)
	awaitFollowed(t, s, p)
	p.leak(1)
	if found := scan(t, x, closeWait)[p.Inode]; len(found) != 2 || found[0].Entered == 0 && found[1].Entered == 0 {
		t.Errorf("attached again: %+v", found)
	}
}

// Who holds a socket is told by one pass, in whatever namespace it is, with the name that
// /proc has for it; one that waits in an accept queue has no holder.
func TestOwners(t *testing.T) {
	p := newPlace(t)
	s, _ := openEvents(t, p, node.Config{All: true})
	if !s.HasOwners() {
		t.Fatal("this kernel should tell the owners")
	}
	held := p.leak(1)
	inode, err := held.Stuck[0].Inode()
	if err != nil {
		t.Fatal(err)
	}
	want := map[uint32]struct{}{inode: {}}
	walked, err := holders.Find("/proc", want)
	if err != nil {
		t.Fatal(err)
	}
	f := holders.NewFinder("/proc", s.Owners)
	for _, find := range []func(map[uint32]struct{}) (holders.Found, error){f.Find, f.FindNew} {
		found, err := find(want)
		if diff := cmp.Diff(walked.Holders, found.Holders); diff != "" || err != nil || !found.Complete {
			t.Errorf("holders, complete %v, %v (-by /proc +by events):\n%s", found.Complete, err, diff)
		}
	}
	s.Close()
	if found, err := f.Find(want); err != nil || len(found.Holders) != 1 {
		t.Errorf("after events are gone: %+v, %v, want a walk through /proc", found, err)
	}
}

// The source tells since when sockets are stuck that no scan has shown yet, as exactly as
// of those that one has; what it knows of both is enough to know them again.
func TestStuckBeforeAScan(t *testing.T) {
	p := newPlace(t)
	s, _ := openEvents(t, p, node.Config{All: true})
	before := clock(t)
	p.leak(1)
	after := clock(t)
	x := scanner(t, s)
	for _, scanned := range []bool{false, true} {
		var told []sock.Socket
		s.Stuck(func(k *sock.Socket, got sock.Instant) {
			if k.ID.Netns != p.Inode {
				return
			}
			told = append(told, *k)
			if (got == k.Entered) == scanned {
				t.Errorf("scanned %v: read at %d, and entered at %d", scanned, got, k.Entered)
			}
		})
		if len(told) != 1 || told[0].Entered < before || told[0].Entered > after || told[0].State != ssfilter.CloseWait {
			t.Fatalf("scanned %v: told of %+v, want one since between %d and %d", scanned, told, before, after)
		}
		k := scan(t, x, closeWait)[p.Inode][0]
		if told[0].ID != k.ID || told[0].Info.BytesAcked != k.Info.BytesAcked || told[0].Info.BytesReceived != k.Info.BytesReceived {
			t.Errorf("scanned %v: told of %+v, and it is %+v", scanned, told[0], k)
		}
	}
}
