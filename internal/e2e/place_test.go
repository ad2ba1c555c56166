package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/netns"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
)

// acts are what the tests start of themselves.
var acts = map[string]func() error{"program": program, "forbidden": forbidden, "inside": inside}

// report is a line that a program in a place says.
type report struct {
	Netns  uint32       // at first
	Stuck  uint64       // the cookie of a socket that got stuck
	After  sock.Instant // not before
	Died   uint64       // the cookie of one that was destroyed
	At     sock.Instant // when that was noticed
	Failed string
	Done   string // the command that is carried out
}

// A program obeys commands, one a line: see the switch.
func program() error {
	if err := netlink.LinkSetUp(nstest.Loopback); err != nil {
		return err
	}
	p := &holder{now: now}
	p.say(report{Netns: netns.Inode()})
	listener, err := nstest.ListenAt(netip.AddrPortFrom(nstest.V4, port), unix.IPPROTO_TCP)
	if err != nil {
		return err
	}
	p.listener = listener
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		if err := p.obey(in.Text()); err != nil {
			p.say(report{Failed: in.Text() + ": " + err.Error()})
			continue
		}
		p.say(report{Done: in.Text()})
	}
	return nil
}

// port is the one that all programs listen on, each in its own namespace.
const port = 7001

// flood is how many sockets leak at once: nearly as many as a process may hold here.
const flood = 15000

// now is CLOCK_MONOTONIC, as the host has it.
func now() sock.Instant {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err)
	}
	return sock.Instant(ts.Nano())
}

// holder is a program that holds sockets.
type holder struct {
	mu       sync.Mutex
	now      func() sock.Instant
	listener nstest.Socket
	held     []nstest.Socket
	clients  []nstest.Socket
}

func (p *holder) say(r report) {
	p.mu.Lock()
	defer p.mu.Unlock()
	line, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	os.Stdout.Write(append(line, '\n'))
}

func (p *holder) obey(command string) error {
	switch command {
	case "plain": // closed by the peer, and forgotten
		return p.leak(nstest.Socket.Close)
	case "flood":
		return p.forget(flood)
	case "forgotten": // one whose end nobody watches
		return p.forget(1)
	case "keepalive": // with keepalives on: the kernel cannot tell for how long
		pair, err := p.pair()
		if err == nil {
			err = errors.Join(pair.Client.Keepalive(), pair.Server.Keepalive())
		}
		if err != nil {
			return err
		}
		p.clients = append(p.clients, pair.Client)
		return p.hangUp(pair.Server, pair.Client.CloseWrite)
	case "half-closed": // the peer has closed its part, and goes on to receive
		pair, err := p.pair()
		if err != nil {
			return err
		}
		err = p.hangUp(pair.Server, pair.Client.CloseWrite)
		go p.send(pair)
		return err
	case "unaccepted": // and closed by the peer
		client, err := nstest.Connect(netip.AddrPortFrom(nstest.V4, port))
		return errors.Join(err, client.Close())
	case "accept":
		s, err := p.listener.Accept()
		if err == nil {
			err = p.watch(s, p.now())
		}
		return err
	case "shared": // a child holds it as well
		if err := p.leak(nstest.Socket.Close); err != nil {
			return err
		}
		child := exec.Command("sleep", "600")
		child.ExtraFiles = []*os.File{os.NewFile(uintptr(p.held[len(p.held)-1]), "")}
		child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
		return child.Start()
	case "established":
		_, err := p.pair()
		return err
	case "locked": // the program sends for its part, and is stopped in a page fault
		if err := p.leak(nstest.Socket.Close); err != nil {
			return err
		}
		return p.lock(p.held[len(p.held)-1])
	case "end": // close all
		for _, s := range p.held {
			s.Close()
		}
		p.held = nil
		return nil
	}
	return errors.New("unknown command")
}

// forget holds connections whose peers have closed them.
func (p *holder) forget(n int) error {
	for range n {
		pair, err := p.pair()
		if err == nil {
			err = pair.Client.Close()
		}
		if err != nil {
			return err
		}
		p.held = append(p.held, pair.Server)
	}
	return nil
}

func (p *holder) pair() (nstest.Pair, error) { return nstest.NewPair(p.listener) }

func (p *holder) leak(hangUp func(nstest.Socket) error) error {
	pair, err := p.pair()
	if err != nil {
		return err
	}
	return p.hangUp(pair.Server, func() error { return hangUp(pair.Client) })
}

// hangUp has the peer of s close its end.
func (p *holder) hangUp(s nstest.Socket, hangUp func() error) error {
	after := p.now()
	if err := errors.Join(hangUp(), s.Await(unix.BPF_TCP_CLOSE_WAIT)); err != nil {
		return err
	}
	return p.watch(s, after)
}

// watch says that a socket is stuck, and when it is destroyed: that wakes whoever polls it.
func (p *holder) watch(s nstest.Socket, after sock.Instant) error {
	cookie, err := s.Cookie()
	if err != nil {
		return err
	}
	p.held = append(p.held, s)
	p.say(report{Stuck: cookie, After: after})
	go func() {
		poll := []unix.PollFd{{Fd: int32(s)}}
		for {
			n, err := unix.Poll(poll, -1)
			if n > 0 && poll[0].Revents&unix.POLLERR != 0 {
				p.say(report{Died: cookie, At: p.now()})
			}
			if err == nil || !errors.Is(err, unix.EINTR) {
				return
			}
		}
	}()
	return nil
}

// send sends a byte now and then.
func (p *holder) send(pair nstest.Pair) {
	for {
		if err := errors.Join(pair.Server.Send(1), pair.Client.Receive(1)); err != nil {
			p.say(report{Failed: fmt.Sprint("a connection in use was disturbed: ", err)})
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// place is a network namespace with a program in it.
type place struct {
	*testing.T
	netns uint32
	cmd   *exec.Cmd
	in    io.WriteCloser

	mu    sync.Mutex
	said  []report
	ended bool
}

// newPlace makes a place. What attr says is said of its process.
func newPlace(t *testing.T, attr ...func(*exec.Cmd)) *place {
	t.Helper()
	self := must(os.Executable())(t)
	p := &place{T: t, cmd: exec.Command(self)}
	p.cmd.Env = append(os.Environ(), actEnv+"=program")
	p.cmd.Stderr = os.Stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	for _, a := range attr {
		a(p.cmd)
	}
	p.in = must(p.cmd.StdinPipe())(t)
	out := must(p.cmd.StdoutPipe())(t)
	check(t, p.cmd.Start())
	go p.hear(out)
	t.Cleanup(p.end)
	p.until("its namespace", func() bool { return len(p.reports(func(r report) bool { return r.Netns != 0 })) > 0 })
	p.netns = p.reports(func(r report) bool { return r.Netns != 0 })[0].Netns
	return p
}

func (p *place) hear(out io.Reader) {
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var r report
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			r.Failed = lines.Text()
		}
		p.mu.Lock()
		p.said = append(p.said, r)
		p.mu.Unlock()
	}
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
}

// end ends the program.
func (p *place) end() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
}

func (p *place) reports(meant func(report) bool) (found []report) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.said {
		if meant(r) {
			found = append(found, r)
		}
	}
	return found
}

// do has the program obey a command, and returns what got stuck by it.
func (p *place) do(command string) (stuck report) {
	p.Helper()
	isDone := func(r report) bool { return r.Done == command || r.Failed != "" }
	before := len(p.reports(isDone))
	if _, err := io.WriteString(p.in, command+"\n"); err != nil {
		p.Fatal(err)
	}
	p.until(command, func() bool { return len(p.reports(isDone)) > before })
	p.fine()
	if all := p.reports(func(r report) bool { return r.Stuck != 0 }); len(all) > 0 {
		stuck = all[len(all)-1]
	}
	return stuck
}

// fine checks that nothing failed.
func (p *place) fine() {
	p.Helper()
	for _, r := range p.reports(func(r report) bool { return r.Failed != "" }) {
		p.Fatal(r.Failed)
	}
}

// died returns when a socket was destroyed; 0: it was not.
func (p *place) died(s report) sock.Instant {
	for _, r := range p.reports(func(r report) bool { return r.Died == s.Stuck }) {
		return r.At
	}
	return 0
}

// dies waits until a socket is destroyed, checks that it was not before its time, and
// returns how late it was at most.
func (p *place) dies(s report, bound time.Duration) (late time.Duration) {
	p.Helper()
	p.until("death of the socket", func() bool { return p.died(s) != 0 })
	if late = p.died(s).Sub(s.After) - bound; late < 0 {
		p.Errorf("killed %v before its time", -late)
	}
	return late
}

// until waits for a condition.
func (p *place) until(what string, holds func() bool) { p.Helper(); until(p.T, what, holds) }

func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %s within a minute", what)
		}
	}
}
