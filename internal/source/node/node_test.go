package node_test

import (
	"cmp"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/cgroup"
	"github.com/sockdog/sockdog/internal/netns"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/source/events"
	"github.com/sockdog/sockdog/internal/source/node"
	"github.com/sockdog/sockdog/internal/source/sockdiag"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

func TestMain(m *testing.M) {
	events.BecomeLoader()
	if lacking = enterCgroup(); lacking != nil {
		nstest.Main(m)
	}
	// eBPF is to be had in the initial user namespace alone: the tests run there, each in a
	// network namespace of its own.
	code := m.Run()
	leaveCgroup()
	os.Exit(code)
}

var loopback = netip.MustParseAddr("127.0.0.1")

// place is a network namespace with a process in it.
type place struct {
	t *testing.T
	*netns.Namespace
	process *exec.Cmd
}

func newPlace(t *testing.T) *place {
	t.Helper()
	nstest.Need(t)
	p := &place{t: t, process: exec.Command("sleep", "600")}
	p.process.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := p.process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.end)
	entered := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends inside
		fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/net", p.process.Process.Pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			defer unix.Close(fd)
			err = unix.Setns(fd, unix.CLONE_NEWNET)
		}
		if err == nil {
			p.Namespace, err = netns.Self()
		}
		entered <- err
	}()
	if err := <-entered; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Namespace.Close() })
	p.do(func() error { return netlink.LinkSetUp(nstest.Loopback) })
	return p
}

// end ends the process that is in the place.
func (p *place) end() {
	p.process.Process.Kill()
	p.process.Wait()
}

func (p *place) do(f func() error) {
	p.t.Helper()
	if err := p.Do(f); err != nil {
		p.t.Fatal(err)
	}
}

// leak makes n sockets in CLOSE_WAIT in the place.
func (p *place) leak(n int) (leak *nstest.Leak) {
	p.t.Helper()
	p.do(func() (err error) { leak, err = nstest.CloseWait(loopback, nstest.ServerSide, n); return err })
	p.t.Cleanup(func() { leak.Close() })
	return leak
}

// log keeps what a source says.
type log struct {
	sync.Mutex
	lines []string
}

func (l *log) say(level slog.Level, message string, attrs ...slog.Attr) {
	l.Lock()
	defer l.Unlock()
	l.lines = append(l.lines, strings.TrimSpace(fmt.Sprint(level, " ", message, " ", attrs)))
}

func (l *log) count(part string) (n int) {
	l.Lock()
	defer l.Unlock()
	for _, line := range l.lines {
		if strings.Contains(line, part) {
			n++
		}
	}
	return n
}

func open(t *testing.T, c node.Config) (*node.Source, *log) {
	t.Helper()
	nstest.Isolate(t)
	now, err := sock.Clock()
	if err != nil {
		t.Fatal(err)
	}
	cgroups, said := cgroup.New(), &log{}
	if c.Now == nil {
		c.Now = now
	}
	c.ProcRoot, c.Cgroup, c.Say = cmp.Or(c.ProcRoot, "/proc"), string(own), said.say
	if c.OpenConn == nil {
		c.OpenConn = func(n *netns.Namespace) (*sockdiag.Conn, error) { return sockdiag.OpenIn(n, now, cgroups) }
	}
	s, err := node.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	s.Start()
	return s, said
}

// scan returns the sockets in the states, by network namespace.
func scan(t *testing.T, x *node.Scanner, states ssfilter.StateSet) map[uint32][]sock.Socket {
	t.Helper()
	found := make(map[uint32][]sock.Socket)
	err := x.Scan(sock.Query{States: states}, func(s *sock.Socket, _ sock.Instant) {
		found[s.ID.Netns] = append(found[s.ID.Netns], *s)
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func scanner(t *testing.T, s *node.Source) *node.Scanner {
	t.Helper()
	x, err := s.OpenScanner()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close() })
	return x
}

func lookup(t *testing.T, s *node.Source) *node.Lookup {
	t.Helper()
	l, err := s.OpenLookup()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// await waits until what is said holds.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not within a minute: ", what)
		}
	}
}

const closeWait = ssfilter.StateSet(1 << ssfilter.CloseWait)

// One source sees, asks for and destroys the sockets of all namespaces, each in its own.
func TestAllNamespaces(t *testing.T) {
	places := []*place{newPlace(t), newPlace(t), newPlace(t)}
	for i, p := range places[:2] {
		p.leak(i + 1)
	}
	s, _ := open(t, node.Config{Kind: node.SockDiag, All: true})
	x := scanner(t, s)
	for range 3 { // the counters spare further ones
		found := scan(t, x, closeWait)
		for i, p := range places {
			if got, want := len(found[p.Inode]), []int{1, 2, 0}[i]; got != want {
				t.Errorf("namespace %d of 3: %d sockets, want %d", i, got, want)
			}
		}
	}
	victim := scan(t, x, closeWait)[places[1].Inode][0].ID
	l := lookup(t, s)
	answers, err := l.Lookup([]sock.ID{victim, scan(t, x, closeWait)[places[0].Inode][0].ID}, nil)
	if err != nil || len(answers) != 2 || answers[0].Socket.ID != victim || answers[1].Socket.ID.Netns != places[0].Inode {
		t.Errorf("answers %+v, %v", answers, err)
	}
	if err := l.Destroy(victim); err != nil {
		t.Fatal(err)
	}
	if found := scan(t, x, closeWait); len(found[places[1].Inode]) != 1 || len(found[places[0].Inode]) != 1 {
		t.Errorf("after one was destroyed: %d and %d left", len(found[places[0].Inode]), len(found[places[1].Inode]))
	}
}

// A namespace that has no socket is not scanned: its counters tell.
func TestEmptyNamespacesAreNotScanned(t *testing.T) {
	now, err := sock.Clock()
	if err != nil {
		t.Fatal(err)
	}
	empty, full := newPlace(t), newPlace(t)
	full.leak(1)
	var mu sync.Mutex
	opened := make(map[uint32]bool)
	s, _ := open(t, node.Config{Kind: node.SockDiag, All: true, OpenConn: func(n *netns.Namespace) (*sockdiag.Conn, error) {
		mu.Lock()
		opened[n.Inode] = true
		mu.Unlock()
		return sockdiag.OpenIn(n, now, nil)
	}})
	x := scanner(t, s)
	isOpened := func(p *place) bool {
		mu.Lock()
		defer mu.Unlock()
		return opened[p.Inode]
	}
	for states, want := range map[ssfilter.StateSet]int{closeWait: 1, ssfilter.Of(ssfilter.Established, ssfilter.TimeWait, ssfilter.SynRecv): 0} {
		if found := scan(t, x, states); len(found[full.Inode]) != want {
			t.Errorf("%v: %d sockets, want %d", states, len(found[full.Inode]), want)
		}
		if isOpened(empty) || !isOpened(full) {
			t.Errorf("%v: the empty one is scanned: %v, the other: %v", states, isOpened(empty), isOpened(full))
		}
	}
	empty.leak(2)
	if found := scan(t, x, closeWait); len(found[empty.Inode]) != 2 {
		t.Errorf("once it has sockets, %d are found, want 2", len(found[empty.Inode]))
	}
}

// A socket of a namespace that is gone is gone; a namespace that comes is found, and its
// sockets with it, though counters have spared scans.
func TestNamespacesComeAndGo(t *testing.T) {
	s, _ := open(t, node.Config{Kind: node.SockDiag, All: true})
	x, l := scanner(t, s), lookup(t, s)
	scan(t, x, closeWait)
	p := newPlace(t)
	leak := p.leak(1)
	var ids []sock.ID
	await(t, "the new namespace is scanned", func() bool {
		for _, k := range scan(t, x, closeWait)[p.Inode] {
			ids = append(ids, k.ID)
		}
		return len(ids) > 0
	})
	leak.Close()
	p.end()
	p.Namespace.Close()
	// Of what was closed there, TIME_WAIT is left for a minute.
	await(t, "it is given up", func() bool { return len(scan(t, x, ssfilter.AllStates)[ids[0].Netns]) == 0 })
	answers, err := l.Lookup(ids[:1], nil)
	if err != nil || !answers[0].Gone {
		t.Errorf("asked: %+v, %v, want that it is gone", answers, err)
	}
	if err := l.Destroy(ids[0]); err != sock.ErrGone {
		t.Errorf("destroy: %v, want that it is gone", err)
	}
}

// refusal is what loading says where the kernel's verifier refuses a program.
type refusal struct{}

func (refusal) Error() string { return "load the program that follows states: invalid argument" }
func (refusal) Log() string   { return "R1 invalid mem access" }

// What the kernel's verifier says of a program that it refuses is said to developers, whether
// sockdog goes on without events or not.
func TestVerdictIsSaid(t *testing.T) {
	const want = "DEBUG the kernel's verifier refuses an eBPF program [error=load the program that follows states: invalid argument log=R1 invalid mem access]"
	s, said := open(t, node.Config{Kind: node.Auto, Unfit: refusal{}})
	await(t, "what the verifier says", func() bool { return said.count(want) == 1 })
	if why := "INFO sockets come from sock_diag; events cannot be had [reason=load the program that follows states: invalid argument]"; said.count(why) != 1 {
		t.Errorf("it says %q, want %q", said.lines, why)
	}
	s.Close()

	now, err := sock.Clock()
	if err != nil {
		t.Fatal(err)
	}
	said = &log{}
	if s, err := node.Open(node.Config{Now: now, Kind: node.Events, Unfit: refusal{}, ProcRoot: "/proc", Say: said.say}); err == nil {
		s.Close()
		t.Error("it does without events, which it must have")
	}
	if said.count(want) != 1 {
		t.Errorf("it says %q, want %q", said.lines, want)
	}
}

// Namespaces that cannot be found are said at the start, with what shows them, and when they can
// be found.
func TestLeftOutIsSaid(t *testing.T) {
	hiding := t.TempDir()
	if err := os.Symlink("/proc/thread-self", filepath.Join(hiding, "thread-self")); err != nil {
		t.Fatal(err)
	}
	s, said := open(t, node.Config{All: true, Kind: node.SockDiag, ProcRoot: hiding})
	await(t, "that some are left out is said", func() bool {
		return said.count("not all network namespaces are watched [reason=processes of other users are hidden") == 1
	})
	if state := s.State(); state.LeftOut == nil || state.Few || !strings.Contains(state.Cure, "namespaces.conf") {
		t.Errorf("the state is %+v", state)
	}
	if err := os.Mkdir(filepath.Join(hiding, "1"), 0o700); err != nil { // a process, which has ended
		t.Fatal(err)
	}
	await(t, "that none is left out is said", func() bool { return said.count("all network namespaces are watched again") == 1 })
	if state := s.State(); state.LeftOut != nil || state.Cure != "" {
		t.Errorf("the state is %+v", state)
	}
}
