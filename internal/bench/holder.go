package main

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
)

// perProcess is how many sockets a process holds: below 20,000, a common limit of
// descriptors.
const perProcess = 17_000

// address returns one that nothing else here listens on, so that no two share a range of
// ephemeral ports.
func (b *bench) address() netip.Addr {
	b.addresses++
	return netip.AddrFrom4([4]byte{127, 1, byte(b.addresses >> 8), byte(b.addresses)})
}

// startHolder starts a process that holds n sockets until it is ended.
func (b *bench) startHolder(n int) (end func(), err error) {
	cmd := exec.Command("/proc/self/exe", "-holder", b.address().String(), "-sockets", fmt.Sprint(n))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, err
	}
	end = func() {
		in.Close()
		cmd.Wait()
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		end()
		return nil, fmt.Errorf("the process that holds sockets: %w", err)
	}
	return end, nil
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
	listener nstest.Socket
	stuck    []nstest.Socket
}

// leaking is a leak of n sockets.
func (b *bench) leaking(n int) (*leak, error) {
	listener, err := nstest.Listen(b.address())
	if err != nil {
		return nil, err
	}
	l := &leak{listener: listener}
	return l, l.fill(n)
}

func (l *leak) end() {
	for _, s := range append(l.stuck, l.listener) {
		s.Close()
	}
}

// fill makes up n sockets in CLOSE_WAIT: those that were killed give their descriptors
// back.
func (l *leak) fill(n int) error {
	l.stuck = slices.DeleteFunc(l.stuck, func(s nstest.Socket) bool {
		killed, err := isKilled(s)
		return (killed || err != nil) && s.Close() == nil
	})
	for range n - len(l.stuck) {
		if _, _, err := l.add(); err != nil {
			return err
		}
	}
	return nil
}

// add has a socket left by its peer, and says when that was.
func (l *leak) add() (local netip.AddrPort, left time.Time, err error) {
	p, err := nstest.NewPair(l.listener)
	if err != nil {
		return local, left, err
	}
	l.stuck = append(l.stuck, p.Client)
	if local, err = p.Client.Local(); err != nil {
		return local, left, err
	}
	left = time.Now()
	return local, left, p.Server.Close()
}

func isKilled(s nstest.Socket) (bool, error) {
	info, err := unix.GetsockoptTCPInfo(int(s), unix.IPPROTO_TCP, unix.TCP_INFO)
	return err == nil && info.State == unix.BPF_TCP_CLOSE, err
}
