package daemon_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/daemon"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/holders"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/status"
)

// spinnerEnv has the test binary be the program that spins.
const spinnerEnv = "SOCKDOG_TEST_SPINNER"

const spinnerPort = 5432

// spinner is a program that accepts connections and then waits, in a level-triggered
// epoll, for what never comes from most of them. It does not look at what epoll
// reports. A line on its standard input has it close what is broken.
func spinner() {
	l, err := nstest.ListenAt(netip.AddrPortFrom(nstest.V4, spinnerPort), unix.IPPROTO_TCP)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	poll, err := unix.EpollCreate1(0)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("listening")
	for range 4 { // the machine of the test may be busy with others
		go func() {
			for {
				unix.EpollWait(poll, make([]unix.EpollEvent, 64), -1)
			}
		}()
	}
	go func() {
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			events := make([]unix.EpollEvent, 64)
			n, _ := unix.EpollWait(poll, events, 0)
			for _, e := range events[:n] {
				unix.Close(int(e.Fd))
			}
		}
		os.Exit(0)
	}()
	for {
		s, err := l.Accept()
		if errors.Is(err, unix.EAGAIN) {
			continue // nobody came for a while
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		unix.EpollCtl(poll, unix.EPOLL_CTL_ADD, int(s), &unix.EpollEvent{Events: unix.EPOLLPRI, Fd: int32(s)})
	}
}

// startSpinner starts one with so many connections, and returns its PID, its standard
// input, and the ends of its clients.
func startSpinner(t *testing.T, n int) (pid int, in io.WriteCloser, clients []nstest.Socket) {
	program := exec.Command("/proc/self/exe")
	program.Env = append(os.Environ(), spinnerEnv+"=1")
	program.Stderr = os.Stderr
	in = must(program.StdinPipe())(t)
	out := must(program.StdoutPipe())(t)
	check(t, program.Start())
	t.Cleanup(func() { in.Close(); program.Wait() })
	must(bufio.NewReader(out).ReadString('\n'))(t)
	for range n {
		clients = append(clients, must(nstest.Connect(netip.AddrPortFrom(nstest.V4, spinnerPort)))(t))
	}
	return program.Process.Pid, in, clients
}

// A real program waits for its connections in a level-triggered epoll, and has forgotten
// some: the first kill makes it spin, and there is no second one, neither for the same
// rule after a restart. Receivers are alerted of that until somebody resets the rule.
func TestCanaryOfSpinningProgram(t *testing.T) {
	t.Parallel()
	const n = 20
	w := newWorld(t)
	current := w.show()
	resets := make(chan daemon.RuleReset)
	w.options.Resets = resets
	url, next := w.alertmanager()
	w.options.FindHolders = func(inodes map[uint32]struct{}) (holders.Found, error) { return holders.Find("/proc", inodes) }
	dir := t.TempDir()
	closeState := w.openState(dir)
	program, in, clients := startSpinner(t, n)
	for _, c := range clients {
		check(t, c.Close())
	}
	rule := often + fmt.Sprintf("receivers: {oncall: {alertmanager: {url: %q}}}\n", url) +
		"rules: [{name: leak, match: {state: close-wait, sport: 5432, in_state_for: 1500ms}, then: {kill: {canary: {wait: 10s}}}}]\n"
	alerted := func(firing bool) {
		t.Helper()
		summary := fmt.Sprintf("stopped itself: its kills made a program spin: %s[%d]", plainComm(t, program), program)
		a := next()
		if a.EndsAt.After(time.Now()) != firing || a.Labels["alertname"] != "leak" || a.Labels["problem"] != "stopped" || !strings.Contains(a.Annotations["summary"], summary) {
			t.Errorf("alerted: %+v, want firing %t and %q", a, firing, summary)
		}
	}
	stop := w.watch(rule)
	stopped := w.await("that the rule stopped", func(l line) bool { return strings.HasPrefix(l.Msg, "the rule stopped itself") })
	if stopped.Level != "ERROR" || stopped.Rule != "leak" || stopped.PID != program || stopped.Reason != "holder_spins" {
		t.Errorf("said: %+v, want the process %d", stopped, program)
	}
	alerted(true)
	// Other work on the machine leaves it less now and then: what counts is the most of then, and the least of later.
	one := max(cpu(t, program), cpu(t, program), cpu(t, program))
	w.until("the problem and the mode", func() bool {
		s := current()
		return hasProblem(s, "stopped") && len(s.Rules) == 1 && s.Rules[0].Mode == status.Stopped && s.Rules[0].Stop.PID == program && s.Rules[0].Held == n-1
	})
	time.Sleep(3 * time.Second) // in which nothing is to happen
	if after := min(cpu(t, program), cpu(t, program), cpu(t, program)); after > one+0.5 {
		t.Errorf("after its one kill the program uses %.1f cores, and %.1f later", one, after)
	}
	stop()
	closeState()
	w.openState(dir)
	w.watch(rule)
	w.until("the mode after a restart", func() bool {
		s := current()
		return len(s.Rules) == 1 && s.Rules[0].Mode == status.Stopped && s.Rules[0].Held == n-1
	})
	alerted(true)
	if killed := w.kills(); killed != 1 {
		t.Errorf("%d sockets were killed, want one", killed)
	}
	must(fmt.Fprintln(in, "close"))(t)
	resets <- daemon.RuleReset{Rule: "leak", By: "uid 7", Done: make(chan daemon.RuleResetDone, 1)}
	alerted(false)
}

// plainComm is the name of a process, as alerts show it.
func plainComm(t *testing.T, pid int) string {
	return subject.PlainName(strings.TrimSpace(string(must(os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)))(t))))
}

// A leak that comes back each time after it was healed is alerted of, beside the kills: those
// are not the cure.
func TestAlertOfLeakThatReturns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	url, next := w.receiver()
	self := must(holders.ReadUsage("/proc", os.Getpid()))(t)
	w.options.FindHolders = func(inodes map[uint32]struct{}) (holders.Found, error) {
		found, err := findElsewhere(inodes)
		for _, held := range found.Holders {
			for i := range held {
				held[i].Start = self.Start // so that it is the same process each time
			}
		}
		return found, err
	}
	l := w.listen(nstest.V4, 5432)
	w.watch(often + fmt.Sprintf("receivers: {chat: {webhook: {url: %q}}}\n", url) +
		"rules: [{name: leak, labels: {team: shop}, match: {state: close-wait, in_state_for: 1s}, then: {kill: {canary: off}}}]\n")
	for range 4 { // one leak, which returns three times
		w.dies(w.leak(l), time.Second)
	}
	m := next()
	if m.Status != "firing" || len(m.Alerts) != 1 {
		t.Fatalf("alerted: %+v", m)
	}
	labels := map[string]string{"alertname": "leak", "instance": w.options.Host, "problem": "leak", "severity": "warning", "team": "shop"}
	if diff := cmp.Diff(labels, m.Alerts[0].Labels); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	if said := m.Alerts[0].Annotations["summary"]; !strings.Contains(said, "killing is not the cure") || !strings.Contains(said, "came back 3 times") {
		t.Errorf("summary: %q", said)
	}
}

// cpu is how many cores a process uses in a second.
func cpu(t *testing.T, pid int) float64 {
	before, began := must(holders.ReadUsage("/proc", pid))(t), time.Now()
	time.Sleep(time.Second)
	return (must(holders.ReadUsage("/proc", pid))(t).CPU - before.CPU).Seconds() / time.Since(began).Seconds()
}

// A real program begins to spin when a socket of its is killed: the others are left
// alone, which is said, and are killed once it has closed what is broken.
func TestSpinningProgram(t *testing.T) {
	t.Parallel()
	const n = 16
	w := newWorld(t)
	current := w.show()
	w.options.FindHolders = func(inodes map[uint32]struct{}) (holders.Found, error) { return holders.Find("/proc", inodes) }
	program, in, clients := startSpinner(t, n)
	w.watch(often + "rules: [{name: leak, match: {state: close-wait, sport: 5432, in_state_for: 1500ms}, then: [kill]}]\n")
	for _, c := range clients { // one falls due each second
		check(t, c.Close())
		time.Sleep(time.Second)
	}
	spins := w.await("that it spins", func(l line) bool { return strings.HasPrefix(l.Msg, "kills made a program spin") })
	if spins.Level != "ERROR" || spins.Rule != "leak" || spins.PID != program {
		t.Errorf("said: %+v, want the process %d", spins, program)
	}
	// A kill that made it spin two seconds later would be another's.
	killed := w.kills()
	if killed < 1 || killed > 8 {
		t.Errorf("%d of %d sockets were killed, one each second, before the rule left the program alone", killed, n)
	}
	w.until("the problem and the reason", func() bool {
		s := current()
		return hasProblem(s, "spin") && len(s.Rules) == 1 && s.Rules[0].HeldBack["holder_spins"] == n-uint64(killed)
	})
	if now := w.kills(); now != killed {
		t.Errorf("%d more were killed while it spins", now-killed)
	}

	must(fmt.Fprintln(in, "close"))(t)
	w.await("that it is quiet", func(l line) bool { return strings.HasPrefix(l.Msg, "the program is quiet again") })
	w.until("kill of the next one", func() bool { return w.kills() > killed })
}

func hasProblem(s *status.Status, kind string) bool {
	for _, p := range s.Problems {
		if p.Kind == kind {
			return true
		}
	}
	return false
}

// Whose sockets have no name is said once, and only where a rule in force might name
// them; it is no problem, and stands on the page.
func TestUnnamedHolders(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	current := w.show()
	w.options.FindHolders = func(inodes map[uint32]struct{}) (holders.Found, error) {
		found, err := findElsewhere(inodes)
		found.Access = holders.Access{Contained: true, Processes: 1}
		return found, err
	}
	w.watch(often + "rules: []\n")
	const said = "who holds sockets cannot be told"
	if n := w.count(said); n > 0 {
		t.Errorf("said %d times where no rule wants to know", n)
	}
	for range 2 {
		w.rules <- daemon.Reload{Rules: w.parse(often + "rules: [{name: leak, match: {state: close-wait, in_state_for: 1s}, then: kill}]\n")}
	}
	w.await("that", func(l line) bool { return strings.HasPrefix(l.Msg, said) && l.Level == "WARN" })
	w.rules <- daemon.Reload{Rules: w.parse("rules: []")}
	w.until("note", func() bool { s := current(); return len(s.Notes) == 1 && s.Notes[0].Kind == "holders" })
	if n := w.count(said); n != 1 || len(current().Problems) > 0 {
		t.Errorf("said %d times; the problems: %v", n, current().Problems)
	}
}

// A walk through /proc stands only between due and done of what nothing else finds: the sockets
// are root's, as far as anybody here can tell, and the kernel may hold such.
func TestSlowWalk(t *testing.T) {
	t.Parallel()
	const n, bound = 20, time.Second
	w := newWorld(t)
	l := w.listen(nstest.V4, 5432)
	hidden := w.leak(l)
	inode := must(hidden.Inode())(t)
	finder := holders.NewFinder("/proc", nil)
	w.options.FindNew = func(inodes map[uint32]struct{}) (holders.Found, error) {
		found, err := finder.FindNew(inodes)
		takeElsewhere(found.Holders)
		delete(found.Holders, inode)
		return found, err
	}
	begun, ended := make(chan struct{}), make(chan struct{})
	begin, end := sync.OnceFunc(func() { close(begun) }), sync.OnceFunc(func() { close(ended) })
	defer end()
	w.options.FindHolders = func(inodes map[uint32]struct{}) (holders.Found, error) {
		found, err := finder.Find(inodes)
		takeElsewhere(found.Holders)
		found.Complete, found.Access = true, holders.Access{AllShown: true} // as on a host whose processes can all be read
		if _, asked := inodes[inode]; asked {
			begin()
			<-ended
		}
		return found, err
	}
	w.watch(often + "rules: [{name: leak, match: {state: close-wait, in_state_for: 1s}, then: [kill]}]\n")
	select {
	case <-begun:
	case <-time.After(patience):
		t.Fatalf("no walk begins within %v", patience)
	}
	made := make([]stuck, n)
	for i := range made {
		made[i] = w.leak(l)
	}
	for _, s := range made {
		w.dies(s, bound)
	}
	w.lives(hidden, unix.BPF_TCP_CLOSE_WAIT)
	end()
	w.dies(hidden, bound)
}
