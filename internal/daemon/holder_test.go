package daemon_test

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/journal"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/pidfd"
	"github.com/sockdog/sockdog/internal/sock"
)

// here duplicates descriptors of the test's own process, which is said to be another.
type here struct{ pidfd.Opener }

func (d *here) Open(h *sock.Holder, inode uint32, cookie uint64) (int, error) {
	self := *h
	if h.PID == os.Getppid() {
		self.PID, self.Start = os.Getpid(), 0
	}
	return d.Opener.Open(&self, inode, cookie)
}

// reach has the watchdog act on sockets through who holds them, too.
func (w *world) reachHolders() { w.options.Descriptors = &here{pidfd.Opener{Root: "/proc"}} }

const leakedBy = "rules: [{name: leak, match: {state: close-wait, sport: 5432, in_state_for: 2s}, then: [kill: {via: %s}]}]\n"

// A kill goes the way that the rule names, or that is possible, and its record says which.
func TestKillVia(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, via string
		refuses   error // SOCK_DESTROY
		goes      string
	}{
		{"the holder's way", "holder", nil, "holder"},
		{"the kernel's way", "kernel", nil, "kernel"},
		{"any way", "any", nil, "kernel"},
		{"any way, with a kernel that does not destroy", "any", unix.EOPNOTSUPP, "holder"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.reachHolders()
			if test.refuses != nil {
				w.destroy = func(kernel, sock.ID) error { return test.refuses }
			}
			l := w.listen(nstest.V4, 5432)
			healthy := w.pair(l)
			w.chat(healthy.Client, healthy.Server)
			w.watch(often + fmt.Sprintf(leakedBy, test.via))
			stuck := w.leak(l)
			done := w.result(stuck.cookie, journal.Done)
			if done.Via != test.goes {
				t.Errorf("the record says via %q, want %q", done.Via, test.goes)
			}
			if test.goes == "holder" && test.refuses == nil && w.kills() > 0 {
				t.Errorf("the kernel was told %d times to destroy", w.kills())
			}
			if n := w.count("the action goes another way"); (n == 1) != (test.refuses != nil) {
				t.Errorf("%d lines say that the action goes another way", n)
			}
			if done.Age < 2 {
				t.Errorf("killed after %v s, which is early", done.Age)
			}
			if got := w.state(stuck.Socket); got != unix.BPF_TCP_CLOSE {
				t.Errorf("the socket is in TCP state %d, want CLOSE", got)
			}
			if got := w.state(healthy.Server); got != unix.BPF_TCP_ESTABLISHED {
				t.Errorf("a healthy socket is in TCP state %d", got)
			}
		})
	}
}

// Who lacks CAP_NET_ADMIN kills nothing, unless the rule names the other way.
func TestKillViaWithoutPrivilege(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.reachHolders()
	w.destroy = func(kernel, sock.ID) error { return unix.EPERM }
	l := w.listen(nstest.V4, 5432)
	w.watch(often + fmt.Sprintf(leakedBy, "any"))
	stuck := w.leak(l)
	w.result(stuck.cookie, journal.Would)
	if got := w.state(stuck.Socket); got != unix.BPF_TCP_CLOSE_WAIT {
		t.Errorf("the socket is in TCP state %d, want CLOSE_WAIT", got)
	}
}

// refusing is a kernel that lets nobody have descriptors of others.
type refusingDescriptors struct{ asked map[uint64]int }

func (r refusingDescriptors) Open(h *sock.Holder, _ uint32, cookie uint64) (int, error) {
	r.asked[cookie]++
	return -1, fmt.Errorf("process %d: %w: %w", h.PID, sock.ErrRefused, &pidfd.Refusal{Why: "a test refuses them", Cure: "end the test"})
}

func (refusingDescriptors) Forget() {}

// What the kernel refuses is said with its cure, once for the socket that was tried, and is
// not tried again all the time.
func TestHolderRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	asked := make(map[uint64]int)
	w.options.Descriptors = refusingDescriptors{asked}
	current := w.show()
	l := w.listen(nstest.V4, 5432)
	stop := w.watch(often + fmt.Sprintf(leakedBy, "holder"))
	first := w.leak(l)
	failed := w.result(first.cookie, journal.Failed)
	if failed.Level != "ERROR" || !strings.Contains(failed.Reason, "a test refuses them: end the test") {
		t.Errorf("it is said: %+v", failed)
	}
	second := w.leak(l)
	w.until("the reason", func() bool {
		s := current()
		return len(s.Rules) == 1 && s.Rules[0].HeldBack["holder_refuses"] == 2
	})
	stop()
	if asked[first.cookie] != 1 || asked[second.cookie] != 0 {
		t.Errorf("tried: %v, want the first socket once", asked)
	}
	if got := w.results(second.cookie); len(got) > 0 {
		t.Errorf("about the second socket: %q", got)
	}
}

// A shutdown is done once the socket has left its state, and the peer gets no RST.
func TestShutdown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.reachHolders()
	l := w.listen(nstest.V4, 5432)
	healthy := w.pair(l)
	w.chat(healthy.Client, healthy.Server)
	w.watch(often + `
rules:
  - {name: forgotten, match: {state: close-wait, sport: 5432, in_state_for: 1s}, then: [shutdown]}
  - {name: idle, match: {state: established, dport: 5432, idle_for: 1s}, then: [shutdown]}
`)
	forgotten := w.pair(l)
	check(t, forgotten.Client.CloseWrite())
	done := w.result(must(forgotten.Server.Cookie())(t), journal.Done)
	if done.Action != "shutdown" || done.Via != "holder" {
		t.Errorf("the record says %+v", done)
	}
	if err := forgotten.Client.Receive(1); err != io.EOF {
		t.Errorf("the peer reads %v, not the end of the stream", err)
	}

	idle := w.pair(l)
	w.result(must(idle.Client.Cookie())(t), journal.Done)
	// The peer acknowledges the FIN within its delayed acknowledgement.
	w.until("FIN_WAIT2 of the idle socket", func() bool { return w.state(idle.Client) == unix.BPF_TCP_FIN_WAIT2 })
	if got := w.results(must(idle.Client.Cookie())(t)); len(got) != 1 {
		t.Errorf("about the idle socket: %q", got)
	}
	if n := w.kills(); n != 0 {
		t.Errorf("the kernel was told %d times to destroy", n)
	}
	if got := w.state(healthy.Server); got != unix.BPF_TCP_ESTABLISHED {
		t.Errorf("a healthy socket is in TCP state %d", got)
	}
}

// What a shutdown leaves behind, because its peer does not answer, is killed as long after it
// as the rule says; nothing is done to what has ended, nor to what others have shut down.
func TestShutdownEscalates(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.reachHolders()
	l := w.listen(nstest.V4, 5432)
	others := w.pair(l)
	check(t, others.Client.CloseWrite())
	check(t, others.Client.Deafen())
	check(t, others.Server.Await(unix.BPF_TCP_CLOSE_WAIT))
	check(t, others.Server.CloseWrite()) // LAST_ACK by its own program
	w.watch(often + `
rules:
  - {name: forgotten, match: {state: close-wait, sport: 5432, in_state_for: 1s}, then: [shutdown, {kill: {after: 2s, canary: off}}]}
  - {name: idle, match: {state: established, dport: 7777, idle_for: 1s}, then: [shutdown, {kill: {after: 2s, canary: off, most: 100%}}]}
`)
	answers, silent, half := w.pair(l), w.pair(l), w.pair(w.listen(nstest.V4, 7777))
	check(t, answers.Client.CloseWrite())
	check(t, silent.Client.CloseWrite())
	check(t, silent.Server.Await(unix.BPF_TCP_CLOSE_WAIT))
	check(t, silent.Client.Deafen())
	for name, s := range map[string]nstest.Socket{"last-ack": silent.Server, "fin-wait-2": half.Client} {
		cookie := must(s.Cookie())(t)
		w.until("both acts on "+name, func() bool { return len(w.results(cookie)) == 2 })
		if got := w.results(cookie); !slices.Equal(got, []string{"shutdown done", "kill done"}) {
			t.Errorf("%s: %q", name, got)
		}
		kill := w.lines(func(l line) bool { return l.Cookie == cookie && l.Action == "kill" })[0]
		if !strings.HasPrefix(kill.Reason, name+" for ") || !strings.Contains(kill.Reason, ", shut down 2") || kill.Age < 1.9 {
			t.Errorf("%s: the record of the kill is %+v", name, kill)
		}
		if got := w.state(s); got != unix.BPF_TCP_CLOSE {
			t.Errorf("%s: it is in TCP state %d", name, got)
		}
	}
	if got := w.results(must(answers.Server.Cookie())(t)); !slices.Equal(got, []string{"shutdown done"}) {
		t.Errorf("of the peer that answers: %q", got)
	}
	if got := w.state(others.Server); got != unix.BPF_TCP_LAST_ACK {
		t.Errorf("what another has shut down is in TCP state %d", got)
	}
}
