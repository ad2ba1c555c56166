package daemon_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/action"
	"github.com/sockdog/sockdog/internal/counters"
	"github.com/sockdog/sockdog/internal/daemon"
	"github.com/sockdog/sockdog/internal/daemon/daemontest"
	"github.com/sockdog/sockdog/internal/holders"
	"github.com/sockdog/sockdog/internal/journal"
	"github.com/sockdog/sockdog/internal/netns"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/source/sockdiag"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

func TestMain(m *testing.M) {
	// Most tests wait for what falls due in seconds, and use no processor: so more
	// of them may run at once than there are of those, unless a flag says otherwise.
	flag.Set("test.parallel", "16")
	if called := os.Getenv(leakerEnv); called != "" {
		leaker(called)
	}
	if os.Getenv(spinnerEnv) != "" {
		spinner()
		return
	}
	nstest.Main(leakless{m})
}

// leakless fails the tests if they leave a goroutine behind.
type leakless struct{ tests *testing.M }

func (l leakless) Run() int {
	code := l.tests.Run()
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return cmp.Or(code, 1)
	}
	return code
}

// patience bounds every wait: only a test that fails takes as long.
const patience = 30 * time.Second

// world is a network namespace of the test's own, and what a watchdog in it
// needs. The sockets of a test belong to the watchdog's own process; so that it
// does not spare them as its own, it is told that another process holds them.
type world struct {
	*testing.T
	netns   int
	options daemon.Options
	log     *book
	told    *told
	rules   chan daemon.Reload

	// What is done in the place of the kernel, where that is not to be left to it.
	scan    func(k kernel, q sock.Query, each func(*sock.Socket, sock.Instant)) error
	destroy func(k kernel, id sock.ID) error
}

func newWorld(t *testing.T) *world {
	t.Helper()
	nstest.Isolate(t)
	w := &world{T: t, log: &book{}, told: &told{at: make(map[uint64][]sock.Instant)}, rules: make(chan daemon.Reload)}
	w.netns = must(unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0))(t)
	t.Cleanup(func() { unix.Close(w.netns) })
	now := must(sock.Clock())(t)
	w.options = daemon.Options{
		Log:       slog.New(slog.NewJSONHandler(w.log, &slog.HandlerOptions{ReplaceAttr: journal.InSeconds})),
		Now:       now,
		Precision: sockdiag.Precision(),
		Kinds:     action.Kinds(),
		Source:    daemontest.SourceOf(w.openKernel, w.openCounters),
		Netns:     netns.Inode(),
		Holders: daemon.Holders{
			FindHolders: findElsewhere,
			FindNew:     func(map[uint32]struct{}) (holders.Found, error) { return holders.Found{}, errors.ErrUnsupported },
			WalkAt:      func() int { return 0 },
			Hung:        func() string { return "" },
			ReadSockets: func(pid int) (map[uint32][]int, error) { return holders.ReadSockets("/proc", pid) },
			ProcRoot:    "/proc",
			Contained:   func() bool { return holders.Contained("/proc") },
			ReadUsage:   func(pid int) (holders.Usage, error) { return holders.ReadUsage("/proc", pid) },
		},
		Reload:         w.rules,
		ServiceManager: daemon.ServiceManager{Notify: func(string) {}},
	}
	return w
}

// enter takes the calling thread, which is locked, into the test's namespace.
func (w *world) enter() error { return unix.Setns(w.netns, unix.CLONE_NEWNET) }

func (w *world) openKernel() (kernel, error) {
	if err := w.enter(); err != nil {
		return nil, err
	}
	k, err := sockdiag.Open(w.options.Now, nil)
	return meddler{k, w}, err
}

func (w *world) openCounters() (daemon.Counters, error) {
	if err := w.enter(); err != nil {
		return nil, err
	}
	return counters.Open()
}

// findElsewhere finds the true holders, and takes the test's parent for the test. Its
// start is not known: how much CPU the tests use is not to matter.
func findElsewhere(inodes map[uint32]struct{}) (holders.Found, error) {
	if len(inodes) == 0 { // who can be read here is not to matter, either
		return holders.Found{Access: holders.Access{AllShown: true, Processes: 1}}, nil
	}
	found, err := holders.Find("/proc", inodes)
	takeElsewhere(found.Holders)
	return found, err
}

func takeElsewhere(found map[uint32][]sock.Holder) {
	for _, holders := range found {
		for i := range holders {
			if holders[i].PID == os.Getpid() {
				holders[i].PID, holders[i].Start = os.Getppid(), 0
			}
		}
	}
}

// in is the same world in a subtest.
func (w *world) in(t *testing.T) *world {
	sub := *w
	sub.T = t
	return &sub
}

// told is when the kernel was told to destroy a socket, by its cookie.
type told struct {
	mu sync.Mutex
	at map[uint64][]sock.Instant
}

func (t *told) note(id sock.ID, now sock.Instant) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.at[id.Cookie] = append(t.at[id.Cookie], now)
}

// killed is when the kernel was told to destroy a socket.
func (w *world) killed(cookie uint64) []sock.Instant {
	w.told.mu.Lock()
	defer w.told.mu.Unlock()
	return slices.Clone(w.told.at[cookie])
}

// kills is how many times the kernel was told to destroy a socket.
func (w *world) kills() int {
	w.told.mu.Lock()
	defer w.told.mu.Unlock()
	n := 0
	for _, at := range w.told.at {
		n += len(at)
	}
	return n
}

// kernel is all that a watchdog wants of the kernel.
type kernel interface {
	daemon.Scanner
	daemon.Destroyer
}

// meddler is a kernel that does not always do as it is told.
type meddler struct {
	kernel
	w *world
}

func (m meddler) Scan(q sock.Query, each func(*sock.Socket, sock.Instant)) error {
	if m.w.scan == nil {
		return m.kernel.Scan(q, each)
	}
	return m.w.scan(m.kernel, q, each)
}

func (m meddler) Destroy(id sock.ID) error {
	m.w.told.note(id, m.w.options.Now())
	if m.w.destroy == nil {
		return m.kernel.Destroy(id)
	}
	return m.w.destroy(m.kernel, id)
}

// often is the head of a file of rules under which scans are made often enough
// for a test.
const often = "settings: {interval: 200ms, cpu_budget: 100%}\n"

func (w *world) parse(text string) *rules.Set {
	w.Helper()
	set, err := rules.Parse(strings.NewReader(text), action.InRules(w.options.Kinds)...)
	if err != nil {
		w.Fatalf("the rules of the test: %v", err)
	}
	if !strings.Contains(text, "canary") { // the others are about something else, and do not wait for one
		for i := range set.Rules {
			for j := range set.Rules[i].Then {
				set.Rules[i].Then[j].Canary, set.Rules[i].Then[j].Most = nil, 0
			}
		}
	}
	return set
}

// watch sets the watchdog on the world. The function that it returns stops it
// and says how long that took; it is called at the end of the test too.
func (w *world) watch(text string) (stop func() time.Duration) {
	w.Helper()
	return w.watchBy(w.parse(text))
}

// watchBy is watch by rules that no file may have.
func (w *world) watchBy(set *rules.Set) (stop func() time.Duration) {
	w.Helper()
	w.options.Rules = set
	scanned := func(l line) bool { return l.Msg == "watching" }
	before := len(w.lines(scanned))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	options := w.options
	go func() { ended <- daemon.Run(ctx, options) }()
	stop = sync.OnceValue(func() time.Duration {
		began := time.Now()
		cancel()
		select {
		case err := <-ended:
			check(w, err)
		case <-time.After(patience):
			w.Errorf("told to stop, and still running %v later", patience)
		}
		return time.Since(began)
	})
	w.Cleanup(func() { stop() })
	w.until("first look", func() bool { return len(w.lines(scanned)) > before })
	return stop
}

// line is one line of the log.
type line struct {
	Level   string
	Msg     string
	Rule    string
	Action  string
	Result  string
	Reason  string
	Error   string
	Cookie  uint64
	PID     int
	Via     string
	Before  string
	DryRun  bool `json:"dry_run"`
	Sockets int
	Waiting int     `json:"still_waiting"`
	Age     float64 `json:"in_state_for"`
}

// book is a log that can be read while it is written. The handler of a slog
// makes one Write of each line.
type book struct {
	mu    sync.Mutex
	text  bytes.Buffer
	lines []line
}

func (b *book) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var l line
	if err := json.Unmarshal(p, &l); err != nil {
		return 0, err
	}
	b.lines = append(b.lines, l)
	return b.text.Write(p)
}

func (b *book) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// lines returns the lines of the log that are meant.
func (w *world) lines(meant func(line) bool) []line {
	w.log.mu.Lock()
	defer w.log.mu.Unlock()
	var found []line
	for _, l := range w.log.lines {
		if meant(l) {
			found = append(found, l)
		}
	}
	return found
}

// count is how many lines of the log begin their message with text.
func (w *world) count(text string) int {
	w.Helper()
	return len(w.lines(func(l line) bool { return strings.HasPrefix(l.Msg, text) }))
}

// results are the actions on a socket in the log, as "kill done".
func (w *world) results(cookie uint64) []string {
	w.Helper()
	var all []string
	for _, l := range w.lines(func(l line) bool { return l.Cookie == cookie }) {
		all = append(all, l.Action+" "+l.Result)
	}
	return all
}

// await waits for a line of the log.
func (w *world) await(what string, meant func(line) bool) line {
	w.Helper()
	var found []line
	w.until(what+" in the log", func() bool {
		found = w.lines(meant)
		return len(found) > 0
	})
	return found[0]
}

// result waits for an action on a socket that ended so.
func (w *world) result(cookie uint64, result journal.Result) line {
	w.Helper()
	return w.await(fmt.Sprintf("%s of socket %d", result, cookie), func(l line) bool {
		return l.Cookie == cookie && l.Result == string(result)
	})
}

// until waits for a condition.
func (w *world) until(what string, holds func() bool) {
	w.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.Fatalf("no %s within %v; the log:\n%s", what, patience, w.log.String())
		}
	}
}

// reach waits for an instant.
func (w *world) reach(at sock.Instant) {
	for now := w.options.Now(); now < at; now = w.options.Now() {
		time.Sleep(at.Sub(now))
	}
}

// stuck is a socket, and the instant at which its time began to run.
type stuck struct {
	nstest.Socket // -1: the program has closed it
	cookie        uint64
	since         sock.Instant
}

func (w *world) listen(addr netip.Addr, port uint16) nstest.Socket {
	w.Helper()
	l := must(nstest.ListenAt(netip.AddrPortFrom(addr, port), unix.IPPROTO_TCP))(w)
	w.Cleanup(func() { l.Close() })
	return l
}

// pair connects to a listener. Both ends are closed with the test, unless
// that has closed them by then.
func (w *world) pair(listener nstest.Socket) nstest.Pair {
	w.Helper()
	p := must(nstest.NewPair(listener))(w)
	w.closeLater(p.Client)
	w.closeLater(p.Server)
	return p
}

// closeLater closes a socket at the end of the test. By then its descriptor may
// be another file's; the cookie tells.
func (w *world) closeLater(s nstest.Socket) {
	cookie := must(s.Cookie())(w)
	w.Cleanup(func() {
		if now, err := s.Cookie(); err == nil && now == cookie {
			s.Close()
		}
	})
}

// leak makes a socket in CLOSE_WAIT: the end that accepted the connection.
func (w *world) leak(listener nstest.Socket) stuck {
	w.Helper()
	p := w.pair(listener)
	return w.hangUp(p.Server, func() error { return p.Client.Close() })
}

// hangUp has the peer of s close its end, and returns s in CLOSE_WAIT.
func (w *world) hangUp(s nstest.Socket, hangUp func() error) stuck {
	w.Helper()
	at := stuck{Socket: s, cookie: must(s.Cookie())(w), since: w.options.Now()}
	check(w, hangUp())
	check(w, s.Await(unix.BPF_TCP_CLOSE_WAIT))
	return at
}

// state is the TCP state of a socket, by the kernel's number.
func (w *world) state(s nstest.Socket) uint8 {
	w.Helper()
	return must(unix.GetsockoptTCPInfo(int(s), unix.IPPROTO_TCP, unix.TCP_INFO))(w).State
}

// dies waits until a socket was killed, and checks that it was not before its
// time: the bound, counted from when it was stuck at the earliest.
func (w *world) dies(s stuck, bound time.Duration) (late time.Duration) {
	w.Helper()
	w.result(s.cookie, journal.Done)
	told := w.killed(s.cookie)
	if len(told) != 1 {
		w.Fatalf("the kernel was told %d times to destroy the socket, want once", len(told))
	}
	late = told[0].Sub(s.since) - bound
	if late < 0 {
		w.Errorf("killed %v before its time", -late)
	}
	if s.Socket >= 0 && w.state(s.Socket) != unix.BPF_TCP_CLOSE {
		w.Errorf("said to be killed, and in TCP state %d", w.state(s.Socket))
	}
	return late
}

// lives checks that a socket was not touched, and is in a state still.
func (w *world) lives(s stuck, state uint8) {
	w.Helper()
	if told := w.killed(s.cookie); len(told) > 0 {
		w.Errorf("killed %v after it was stuck", told[0].Sub(s.since))
	}
	if s.Socket >= 0 && w.state(s.Socket) != state {
		w.Errorf("in TCP state %d, want %d", w.state(s.Socket), state)
	}
}

// chat has one end send a byte now and then, and the other read it, until the
// end of the test.
func (w *world) chat(from, to nstest.Socket) {
	w.Helper()
	done, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			if err := errors.Join(from.Send(1), to.Receive(1)); err != nil {
				ended <- err
				return
			}
			select {
			case <-time.After(bound / 20):
			case <-done:
				ended <- nil
				return
			}
		}
	}()
	w.Cleanup(func() {
		close(done)
		if err := <-ended; err != nil {
			w.Errorf("a connection in use was disturbed: %v", err)
		}
	})
}

// cookie waits for the one socket that is meant and returns its cookie. It is for
// sockets that no descriptor of the test stands for.
func (w *world) cookie(meant func(s *sock.Socket) bool) (cookie uint64) {
	w.Helper()
	c := must(sockdiag.Open(w.options.Now, nil))(w)
	defer c.Close()
	every := sock.Query{States: ssfilter.Connected}
	w.until("such socket", func() bool {
		n := 0
		check(w, c.Scan(every, func(s *sock.Socket, _ sock.Instant) {
			if meant(s) {
				cookie = s.ID.Cookie
				n++
			}
		}))
		return n == 1
	})
	return cookie
}

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

// boundPair connects to a listener from a port of the program's own choice, which
// a socket keeps when it is connected anew.
func (w *world) boundPair(l nstest.Socket) (client, server nstest.Socket, to netip.AddrPort) {
	w.Helper()
	to = must(l.Local())(w)
	client = must(nstest.New(nstest.V4, unix.IPPROTO_TCP))(w)
	w.closeLater(client)
	check(w, client.Bind(netip.AddrPortFrom(nstest.V4, 5433)))
	check(w, client.Connect(to))
	return client, must(l.Accept())(w), to
}
