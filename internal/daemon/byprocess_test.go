package daemon_test

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/holders"
	"github.com/sockdog/sockdog/internal/journal"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/status"
)

// leakerEnv has the test binary be a program that leaks: NAME PORT.
const leakerEnv = "SOCKDOG_TEST_LEAKER"

// leaker accepts connections and never closes one.
func leaker(called string) {
	var name string
	var port uint16
	_, err := fmt.Sscan(called, &name, &port)
	if err == nil {
		err = os.WriteFile("/proc/self/comm", []byte(name), 0)
	}
	var l nstest.Socket
	if err == nil {
		l, err = nstest.ListenAt(netip.AddrPortFrom(nstest.V4, port), unix.IPPROTO_TCP)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("listening")
	for err == nil || errors.Is(err, unix.EAGAIN) {
		_, err = l.Accept()
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// startLeaker starts a program that leaks, and has so many connections to it closed by their
// peers.
func (w *world) startLeaker(name string, port uint16, n int) (pid int) {
	w.Helper()
	program := exec.Command("/proc/self/exe", "at", strconv.Itoa(int(port)))
	program.Env = append(os.Environ(), leakerEnv+"="+name+" "+strconv.Itoa(int(port)))
	program.Stderr = os.Stderr
	out := must(program.StdoutPipe())(w)
	check(w, program.Start())
	w.Cleanup(func() { program.Process.Kill(); program.Wait() })
	must(bufio.NewReader(out).ReadString('\n'))(w)
	for range n {
		c := must(nstest.Connect(netip.AddrPortFrom(nstest.V4, port)))(w)
		check(w, c.Close())
	}
	return program.Process.Pid
}

// byPID counts the sockets that were killed, by the process that the log names.
func (w *world) byPID() map[int]int {
	killed := make(map[int]int)
	for _, l := range w.lines(func(l line) bool { return l.Result == string(journal.Done) && l.Action == "kill" }) {
		killed[l.PID]++
	}
	return killed
}

// all finds the true holders, as if all processes could be read. That is so of all in the
// namespace of the test.
func all(inodes map[uint32]struct{}) (holders.Found, error) {
	found, err := holders.Find("/proc", inodes)
	found.Complete, found.Access = true, holders.Access{AllShown: true, Processes: 1}
	return found, err
}

// Two programs leak: a rule that names one heals it, and spares the other.
func TestKillsByProcess(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.options.FindHolders = all
	leaky, other := w.startLeaker("leaky", 5432, 5), w.startLeaker("other", 5433, 5)
	w.watch(often + "rules: [{name: leak, match: {state: close-wait, in_state_for: 2s, process: leaky}, then: kill}]\n")
	w.until("kills of what leaks", func() bool { return w.byPID()[leaky] == 5 })
	w.reach(w.options.Now().Add(3 * time.Second)) // those of the other have been due for as long
	if killed := w.byPID(); killed[leaky] != 5 || killed[other] != 0 || w.kills() != 5 {
		t.Errorf("killed by process: %v, want 5 of %d alone", killed, leaky)
	}
}

// A rule about a command line has those of holders compared with it, and tells two programs of
// one name apart.
func TestKillsByCommandLine(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	finder := holders.NewFinder("/proc", nil)
	w.options.AskCmdlines = finder.AskCmdlines
	w.options.FindHolders = func(inodes map[uint32]struct{}) (holders.Found, error) {
		found, err := finder.Find(inodes)
		found.Complete, found.Access = true, holders.Access{AllShown: true, Processes: 1}
		return found, err
	}
	leaky, other := w.startLeaker("worker", 5432, 3), w.startLeaker("worker", 5433, 3)
	w.watch(often + "rules: [{name: leak, match: {state: close-wait, in_state_for: 1s, cmdline: 'exe at 543[12]$'}, then: kill}]\n")
	w.until("kills of what leaks", func() bool { return w.byPID()[leaky] == 3 })
	w.reach(w.options.Now().Add(3 * time.Second)) // those of the other have been due for as long
	if killed := w.byPID(); killed[other] != 0 {
		t.Errorf("killed by process: %v, want those of %d alone", killed, leaky)
	}
}

// That the command line of a process cannot be read, since it hangs, is a problem until it can.
func TestCmdlineThatHangs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var answered atomic.Bool
	w.options.Hung = func() string {
		if answered.Load() {
			return ""
		}
		return "process 812 hangs"
	}
	current := w.show()
	problem := func() string {
		if s := current(); s != nil {
			for _, p := range s.Problems {
				if p.Kind == "cmdline" {
					return p.Text
				}
			}
		}
		return ""
	}
	w.watch(often + leaked)
	w.until("problem", func() bool { return problem() == "process 812 hangs" })
	answered.Store(true)
	w.until("end of the problem", func() bool { return problem() == "" })
}

// One of several programs of the same name leaks more than the others: a rule about groups
// finds it.
func TestFindsTheLeakyProcess(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.options.FindHolders = all
	w.startLeaker("worker", 5432, 2)
	leaky := w.startLeaker("worker", 5433, 9)
	w.startLeaker("worker", 5434, 2)
	w.watch(often + `
rules:
  - name: one-leaks
    match: {state: close-wait, in_state_for: 1s}
    group_by: [process, pid]
    when: count > 5
    for: 1s
    then: [kill, log]
`)
	w.until("kills of what leaks", func() bool { return w.byPID()[leaky] == 9 })
	if killed := w.byPID(); len(killed) != 1 || w.kills() != 9 {
		t.Errorf("killed by process: %v, want 9 of %d alone", killed, leaky)
	}
	fired := w.await("the group", func(l line) bool { return strings.Contains(l.Msg, "firing") })
	if fired.Rule != "one-leaks" {
		t.Errorf("said: %+v", fired)
	}
}

// Where not every process can be read, a rule that names one kills nothing, and says so.
func TestUnreadableIsNotKilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	current := w.show()
	w.options.FindHolders = func(inodes map[uint32]struct{}) (holders.Found, error) {
		found, err := all(inodes)
		found.Complete, found.Access = false, holders.Access{AllShown: true, Processes: 2, Refused: 1, First: sock.Holder{PID: 9, Comm: "shy"}}
		return found, err
	}
	w.startLeaker("leaky", 5432, 3)
	w.watch(often + "rules: [{name: leak, match: {state: close-wait, in_state_for: 1s, process: leaky}, then: kill}]\n")
	w.await("that the rule waits", func(l line) bool {
		return strings.HasPrefix(l.Msg, "who holds some sockets cannot be seen") && l.Rule == "leak" && strings.Contains(l.Reason, "shy[9]")
	})
	w.until("the reason", func() bool {
		s := current()
		return len(s.Rules) == 1 && s.Rules[0].HeldBack["holders_unknown"] == 3
	})
	w.until("the problem", func() bool {
		return slices.ContainsFunc(current().Problems, func(p status.Problem) bool {
			return p.Kind == "blind" && strings.HasPrefix(p.Text, "rule leak does nothing: ") && strings.Contains(p.Cure, "CAP_SYS_PTRACE")
		})
	})
	if n := w.kills(); n != 0 {
		t.Errorf("%d were killed", n)
	}
}

// A program that is about to run out of descriptors is found by its limit.
func TestFindsWhoRunsOutOfDescriptors(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.options.FindHolders = all
	w.options.ReadDescriptors = func(h sock.Holder) (holders.Descriptors, error) { return holders.ReadDescriptorsOf("/proc", h) }
	leaky, other := w.startLeaker("leaky", 5432, 5), w.startLeaker("other", 5433, 5)
	limit := unix.Rlimit{Cur: 10, Max: 1000}
	check(w, unix.Prlimit(leaky, unix.RLIMIT_NOFILE, &limit, nil))
	current := w.show()
	w.watch(often + "rules: [{name: full, match: {state: close-wait}, group_by: pid, when: fd_usage > 60%}]\n")
	w.await("the group", func(l line) bool { return l.Msg == "group firing" })
	w.until("what is published", func() bool { return current().Rules[0].Firing == 1 })
	for _, g := range current().Rules[0].Groups {
		if full := g.Labels["pid"] == strconv.Itoa(leaky); full != (g.Phase == "firing") || g.Conditions[0].Value <= 0 {
			t.Errorf("%+v, want %d alone to fire, and not %d", g, leaky, other)
		}
	}
}
