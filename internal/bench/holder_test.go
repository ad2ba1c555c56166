package bench

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
)

// perProcess is how many sockets a process holds: below 20,000, a common limit of
// descriptors.
const perProcess = 17_000

// addresses counts those that were given out.
var addresses int

// ours is what they are of.
var ours = netip.MustParsePrefix("127.1.0.0/16")

// address returns one that nothing else here listens on, so that no two share a range of
// ephemeral ports.
func address() netip.Addr {
	addresses++
	return netip.AddrFrom4([4]byte{127, 1, byte(addresses >> 8), byte(addresses)})
}

// holding is a process that holds sockets until this one ends.
type holding struct {
	cmd     *exec.Cmd
	orders  io.WriteCloser
	answers *bufio.Reader
}

// startHolder starts a process that holds n sockets, and that leaks so many on order.
func startHolder(n, stuck int, attr *syscall.SysProcAttr) (*holding, error) {
	h := &holding{cmd: exec.Command("/proc/self/exe", "-holder", address().String(), "-sockets", fmt.Sprint(n), "-stuck", fmt.Sprint(stuck))}
	h.cmd.Stderr = os.Stderr
	h.cmd.SysProcAttr = attr
	h.cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	out, err := h.cmd.StdoutPipe()
	if err == nil {
		h.answers = bufio.NewReader(out)
		h.orders, err = h.cmd.StdinPipe()
	}
	if err == nil {
		err = h.cmd.Start()
	}
	if err == nil {
		_, err = h.answers.ReadString('\n')
	}
	if err != nil {
		return nil, fmt.Errorf("the process that holds sockets: %w", err)
	}
	return h, nil
}

// end ends the process, and waits for that.
func (h *holding) end() {
	h.orders.Close()
	h.cmd.Wait()
}

// order has the process do something, and returns how many sockets of it are stuck then.
func (h *holding) order(what string) (stuck int, err error) {
	if _, err := fmt.Fprintln(h.orders, what); err != nil {
		return 0, err
	}
	_, err = fmt.Fscanln(h.answers, &stuck)
	return stuck, err
}

// The orders to a process that holds sockets: to do nothing, to make up its leak, or to have
// a connection begin and end ten times a second from now on.
const (
	orderCount   = "count"
	orderLeak    = "leak"
	orderTraffic = "traffic"
)

// hold connects n sockets with each other, says so, and follows orders until standard input
// ends.
func hold(address string, n, stuck int) error {
	at, err := netip.ParseAddr(address)
	if err == nil {
		err = nstest.LoopbackUp() // of a new namespace
	}
	if err != nil {
		return err
	}
	listener, err := nstest.Listen(at)
	if err != nil {
		return err
	}
	for range n / 2 {
		if _, err := nstest.NewPair(listener); err != nil {
			return err
		}
	}
	l := &leak{listener: listener}
	fmt.Println("holding")
	for orders := bufio.NewScanner(os.Stdin); orders.Scan(); {
		switch orders.Text() {
		case orderLeak:
			err = l.fill(stuck)
		case orderTraffic:
			go traffic(at)
		}
		if err != nil {
			return err
		}
		fmt.Println(l.count())
	}
	return nil
}

// traffic opens and closes connections.
func traffic(at netip.Addr) {
	listener, err := nstest.Listen(at)
	if err != nil {
		panic(err)
	}
	for range time.Tick(100 * time.Millisecond) {
		p, err := nstest.NewPair(listener)
		if err == nil {
			err = errors.Join(p.Client.Send(100), p.Server.Receive(100), p.Close())
		}
		if err != nil {
			panic(err)
		}
	}
}

// leak holds sockets that their peers have left.
type leak struct {
	listener nstest.Socket
	stuck    []nstest.Socket
}

// leaking is a leak of n sockets.
func leaking(b *testing.B, n int) *leak {
	b.Helper()
	listener, err := nstest.Listen(address())
	l := &leak{listener: listener}
	if err == nil {
		err = l.fill(n)
	}
	if err != nil {
		b.Fatal(err)
	}
	return l
}

func (l *leak) end() {
	for _, s := range append(l.stuck, l.listener) {
		s.Close()
	}
}

// fill makes up n sockets in CLOSE_WAIT: those that were killed give their descriptors
// back.
func (l *leak) fill(n int) error {
	l.stuck = slices.DeleteFunc(l.stuck, func(s nstest.Socket) bool { return isKilled(s) && s.Close() == nil })
	for range n - len(l.stuck) {
		if _, _, err := l.add(false); err != nil {
			return err
		}
	}
	return nil
}

// count returns how many are left of it.
func (l *leak) count() (n int) {
	for _, s := range l.stuck {
		if !isKilled(s) {
			n++
		}
	}
	return n
}

// add has a socket left by its peer, and says when that was.
func (l *leak) add(keepalive bool) (local netip.AddrPort, left time.Time, err error) {
	p, err := nstest.NewPair(l.listener)
	if err != nil {
		return local, left, err
	}
	l.stuck = append(l.stuck, p.Client)
	if keepalive {
		err = p.Client.Keepalive()
	}
	if err == nil {
		local, err = p.Client.Local()
	}
	left = time.Now()
	return local, left, errors.Join(err, p.Server.Close(), p.Client.Await(unix.BPF_TCP_CLOSE_WAIT))
}

func isKilled(s nstest.Socket) bool {
	info, err := unix.GetsockoptTCPInfo(int(s), unix.IPPROTO_TCP, unix.TCP_INFO)
	return err != nil || info.State == unix.BPF_TCP_CLOSE
}
