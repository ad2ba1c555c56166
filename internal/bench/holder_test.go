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

// address returns one that nothing else here listens on, so that no two share a range of
// ephemeral ports.
func address() netip.Addr {
	addresses++
	return netip.AddrFrom4([4]byte{127, 1, byte(addresses >> 8), byte(addresses)})
}

// startHolder starts a process that holds n sockets until this one ends.
func startHolder(n int) error {
	cmd := exec.Command("/proc/self/exe", "-holder", address().String(), "-sockets", fmt.Sprint(n))
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err == nil {
		_, err = bufio.NewReader(out).ReadString('\n')
	}
	if err != nil {
		return fmt.Errorf("the process that holds sockets: %w", err)
	}
	return nil
}

// hold connects n sockets with each other, says so, and holds them until standard input
// ends.
func hold(address string, n int) error {
	at, err := netip.ParseAddr(address)
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
	fmt.Println("holding")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// leak holds sockets that their peers have left.
type leak struct {
	b        *testing.B
	listener nstest.Socket
	stuck    []nstest.Socket
}

// leaking is a leak of n sockets.
func leaking(b *testing.B, n int) *leak {
	b.Helper()
	listener, err := nstest.Listen(address())
	if err != nil {
		b.Fatal(err)
	}
	l := &leak{b: b, listener: listener}
	l.fill(n)
	return l
}

func (l *leak) end() {
	for _, s := range append(l.stuck, l.listener) {
		s.Close()
	}
}

// fill makes up n sockets in CLOSE_WAIT: those that were killed give their descriptors
// back.
func (l *leak) fill(n int) {
	l.stuck = slices.DeleteFunc(l.stuck, func(s nstest.Socket) bool { return isKilled(s) && s.Close() == nil })
	for range n - len(l.stuck) {
		l.add()
	}
}

// add has a socket left by its peer, and says when that was.
func (l *leak) add() (local netip.AddrPort, left time.Time) {
	p, err := nstest.NewPair(l.listener)
	if err != nil {
		l.b.Fatal(err)
	}
	l.stuck = append(l.stuck, p.Client)
	if local, err = p.Client.Local(); err != nil {
		l.b.Fatal(err)
	}
	left = time.Now()
	if err := errors.Join(p.Server.Close(), p.Client.Await(unix.BPF_TCP_CLOSE_WAIT)); err != nil {
		l.b.Fatal(err)
	}
	return local, left
}

func isKilled(s nstest.Socket) bool {
	info, err := unix.GetsockoptTCPInfo(int(s), unix.IPPROTO_TCP, unix.TCP_INFO)
	return err != nil || info.State == unix.BPF_TCP_CLOSE
}
