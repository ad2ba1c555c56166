package sockdiag

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/netns"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// elsewhere isolates the test, and makes another namespace beside its own.
func elsewhere(t testing.TB) *netns.Namespace {
	t.Helper()
	nstest.Isolate(t)
	type made struct {
		namespace *netns.Namespace
		err       error
	}
	done := make(chan made)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- made{nil, err}
			return
		}
		err := netlink.LinkSetUp(nstest.Loopback)
		n, selfErr := netns.Self()
		done <- made{n, errors.Join(err, selfErr)}
	}()
	m := <-done
	check(t, m.err)
	t.Cleanup(func() { m.namespace.Close() })
	return m.namespace
}

// TestOpenIn scans, asks, names devices and kills in another namespace, whose sockets
// have the addresses, and whose devices the index, of others here.
func TestOpenIn(t *testing.T) {
	there := elsewhere(t)
	here := netns.Inode()
	var stuck uint64
	check(t, there.Do(func() error {
		if _, err := nstest.NewDevice("there0"); err != nil {
			t.Skip("needs veth devices: ", err)
		}
		leak := closeWait(t, nstest.V4, nstest.ServerSide, 1)
		check(t, leak.Stuck[0].BindToDevice("there0"))
		stuck = must(leak.Stuck[0].Cookie())(t)
		return nil
	}))
	must(nstest.NewDevice("here0"))(t)
	own := closeWait(t, nstest.V4, nstest.ServerSide, 1)
	check(t, own.Stuck[0].BindToDevice("here0"))

	c := must(OpenIn(there, must(sock.Clock())(t), nil))(t)
	defer c.Close()
	s := only(t, c, ssfilter.CloseWait)
	if got, want := s.ID.Key(), (sock.Key{Netns: there.Inode, Cookie: stuck}); got != want {
		t.Errorf("scanned %v, want %v", got, want)
	}
	if s.Device != "there0" {
		t.Errorf("bound to %q, want there0", s.Device)
	}
	named := sock.Query{States: ssfilter.Of(ssfilter.CloseWait), Where: must(ssfilter.ParseExpr("dev there0"))(t)}
	if got := scan(t, c, named); len(got) != 1 {
		t.Errorf("%d sockets of there0, want 1", len(got))
	}

	// After an error, the next socket is opened there, too, by whatever thread.
	_ = c.abandon(errors.New("lost"))
	on := make(chan struct{})
	go func() {
		defer close(on)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if a := ask(t, c, s.ID); a.Gone || a.Err != nil || a.Socket.ID != s.ID || a.Socket.Device != "there0" {
			t.Errorf("asked again: %+v", a)
		}
		check(t, destroy(t, c, s.ID))
		if a := ask(t, c, s.ID); !a.Gone {
			t.Errorf("destroyed, and there: %+v", a)
		}
	}()
	<-on
	if netns.Inode() != here {
		t.Error("the test's thread is elsewhere")
	}
	neighbour := only(t, must(Open(c.now, nil))(t), ssfilter.CloseWait)
	if neighbour.ID.Netns != here || neighbour.Device != "here0" {
		t.Errorf("the own namespace shows %+v", neighbour)
	}
	if err := destroy(t, c, neighbour.ID); !errors.Is(err, sock.ErrGone) {
		t.Errorf("kill a socket of another namespace: %v, want %v", err, sock.ErrGone)
	}
}

// TestOpenInClosed: what was closed cannot be opened again in a namespace that was given
// up; and neither descriptors nor goroutines are left.
func TestOpenInClosed(t *testing.T) {
	there := elsewhere(t)
	descriptors := func() int { return len(must(filepath.Glob("/proc/self/fd/*"))(t)) }
	before, goroutines := descriptors(), goleak.IgnoreCurrent()
	clock := must(sock.Clock())(t)
	var open []*Conn
	for range 20 {
		open = append(open, must(OpenIn(there, clock, nil))(t))
	}
	for _, c := range open {
		scan(t, c, sock.Query{States: ssfilter.Of(ssfilter.CloseWait)})
		check(t, c.Close())
	}
	if err := goleak.Find(goroutines); err != nil {
		t.Error(err)
	}
	if got := descriptors(); got != before {
		t.Errorf("%d descriptors, want %d", got, before)
	}
	check(t, there.Close())
	if err := open[0].Scan(sock.Query{}, nil); !errors.Is(err, os.ErrClosed) {
		t.Errorf("scan what was given up: %v, want %v", err, os.ErrClosed)
	}
}

// TestOpenInOwned kills in a network namespace that another user namespace owns: root of
// the one above has CAP_NET_ADMIN there.
func TestOpenInOwned(t *testing.T) {
	nstest.Isolate(t)
	cmd := exec.Command("cat") // ends with its stdin
	stdin := must(cmd.StdinPipe())(t)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNET}
	check(t, cmd.Start())
	defer cmd.Wait()
	defer stdin.Close()

	own := must(netns.Self())(t)
	defer own.Close()
	finder := must(netns.NewFinder("/proc", own))(t)
	defer finder.Close()
	var there *netns.Namespace
	link := must(os.Readlink(fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid)))(t)
	for _, n := range must(finder.Find())(t).Appeared {
		defer n.Close()
		if link == fmt.Sprintf("net:[%d]", n.Inode) {
			there = n
		}
	}
	if there == nil {
		t.Fatalf("%s is not found", link)
	}
	check(t, there.Do(func() error {
		check(t, netlink.LinkSetUp(nstest.Loopback))
		closeWait(t, nstest.V4, nstest.ServerSide, 1)
		return nil
	}))
	c := must(OpenIn(there, must(sock.Clock())(t), nil))(t)
	defer c.Close()
	s := only(t, c, ssfilter.CloseWait)
	check(t, destroy(t, c, s.ID))
	if a := ask(t, c, s.ID); !a.Gone {
		t.Errorf("destroyed, and there: %+v", a)
	}
}

// BenchmarkOpenIn opens a Conn in another namespace, asks a question and closes it.
func BenchmarkOpenIn(b *testing.B) {
	there := elsewhere(b)
	clock := must(sock.Clock())(b)
	c := must(OpenIn(there, clock, nil))(b)
	nobody := []sock.ID{{Family: unix.AF_INET, Cookie: 1}}
	var answers []sock.Answer
	for b.Loop() {
		answers = must(c.Lookup(nobody, answers))(b)
		check(b, c.Close())
	}
}
