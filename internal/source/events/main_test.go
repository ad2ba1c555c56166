package events_test

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/source/events"
	"github.com/sockdog/sockdog/internal/source/sockdiag"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// The tests need eBPF, which is to be had in the initial user namespace alone. They attach to
// a cgroup of their own, so that they see nobody else's sockets.

// own is that cgroup, and lacking says why there is none.
var (
	own     nstest.Cgroup
	lacking error
)

func TestMain(m *testing.M) {
	events.BecomeLoader()
	if act := acts[os.Getenv(actEnv)]; act != nil {
		if err := act(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Setenv("GORACE", "atexit_sleep_ms=0") // a second for each loader, else
	os.Exit(run(m))
}

func run(m *testing.M) int {
	root, err := events.CgroupRoot()
	if err == nil {
		own, err = nstest.Cgroup(root).New("sockdog-events-test-" + strconv.Itoa(os.Getpid()))
	}
	if err == nil {
		err = own.Enter()
		defer func() { err = errors.Join(nstest.Cgroup(root).Enter(), own.Remove()) }()
	}
	if err == nil {
		var programs *events.Programs
		if programs, err = events.Load(1); err == nil {
			programs.Close()
		}
	}
	lacking = err
	code := m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

// need skips a test where there is no eBPF.
func need(t testing.TB) { t.Helper(); nstest.SkipWithout(t, "eBPF", lacking) }

func must[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// load gives the test a network namespace and programs that are not attached.
func load(t testing.TB, places int) *events.Programs {
	t.Helper()
	need(t)
	nstest.Isolate(t)
	p := must(events.Load(places))(t)
	t.Cleanup(p.Close)
	return p
}

// attach is load, and the programs follow the sockets of this process in those states.
func attach(t testing.TB, places int, states ssfilter.StateSet) *events.Programs {
	t.Helper()
	p := load(t, places)
	check(t, p.Attach(string(own)))
	check(t, p.Table().Want(states))
	return p
}

func now(t testing.TB) sock.Instant {
	t.Helper()
	var ts unix.Timespec
	check(t, unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts))
	return sock.Instant(ts.Nano())
}

// read returns the table by cookie.
func read(t testing.TB, table *events.Table) map[uint64]events.Entry {
	t.Helper()
	all := make(map[uint64]events.Entry)
	check(t, table.Read(func(e *events.Entry) {
		if _, twice := all[e.ID.Cookie]; twice {
			t.Errorf("%+v was read twice", *e)
		}
		all[e.ID.Cookie] = *e
	}))
	return all
}

// scan returns what sock_diag shows of the test's namespace in the states, by cookie.
func scan(t testing.TB, states ssfilter.StateSet) map[uint64]sock.Socket {
	t.Helper()
	conn := must(sockdiag.Open(must(sock.Clock())(t), nil))(t)
	defer conn.Close()
	all := make(map[uint64]sock.Socket)
	check(t, conn.Scan(sock.Query{States: states}, func(s *sock.Socket, _ sock.Instant) { all[s.ID.Cookie] = *s }))
	return all
}

// fds counts the descriptors of this process.
func fds(t testing.TB) int {
	t.Helper()
	return len(must(os.ReadDir("/proc/self/fd"))(t))
}

// attachedTo counts the sock_ops programs that are attached to the tests' cgroup.
func attachedTo(t testing.TB, dir nstest.Cgroup) int {
	t.Helper()
	return must(query(string(dir), 0))(t)
}

func cookie(t testing.TB, s nstest.Socket) uint64 {
	t.Helper()
	return must(s.Cookie())(t)
}
