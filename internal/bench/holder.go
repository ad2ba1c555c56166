package main

import (
	"io"
	"net/netip"
	"net/rpc"
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

// holder is a process that holds sockets: one may have only so many descriptors.
// It does what is called of a Holder.
type holder struct {
	*rpc.Client
	cmd *exec.Cmd
}

// holder starts a process that holds sockets, on an address of its own, so that no
// two share a range of ephemeral ports.
func (b *bench) holder() (*holder, error) {
	b.holders++
	cmd := exec.Command("/proc/self/exe", "-holder", netip.AddrFrom4([4]byte{127, 1, byte(b.holders >> 8), byte(b.holders)}).String())
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &holder{rpc.NewClient(stdio{out, in}), cmd}, cmd.Start()
}

// leaking is a holder with n sockets in CLOSE_WAIT.
func (b *bench) leaking(n int) (*holder, error) {
	h, err := b.holder()
	if err == nil {
		err = h.Call("Holder.Leak", n, nil)
	}
	return h, err
}

// stdio is what two processes call each other through.
type stdio struct {
	io.Reader
	io.WriteCloser
}

func (h *holder) end() {
	h.Close()
	h.cmd.Wait()
}

// Holder is what such a process holds.
type Holder struct {
	listener nstest.Socket
	stuck    []nstest.Socket
}

// serveHolder does what it is asked for on standard input until that ends.
func serveHolder(address string) error {
	at, err := netip.ParseAddr(address)
	if err != nil {
		return err
	}
	listener, err := nstest.Listen(at)
	if err != nil {
		return err
	}
	if err := rpc.Register(&Holder{listener: listener}); err != nil {
		return err
	}
	rpc.ServeConn(stdio{os.Stdin, os.Stdout})
	return nil
}

// Pairs makes n connections, and holds both ends.
func (h *Holder) Pairs(n int, _ *int) error {
	for range n {
		if _, err := nstest.NewPair(h.listener); err != nil {
			return err
		}
	}
	return nil
}

// Leak makes up n sockets in CLOSE_WAIT: those that were killed give their
// descriptors back.
func (h *Holder) Leak(n int, _ *int) error {
	h.stuck = slices.DeleteFunc(h.stuck, func(s nstest.Socket) bool {
		killed, err := isKilled(s)
		return (killed || err != nil) && s.Close() == nil
	})
	for range n - len(h.stuck) {
		if _, _, err := h.leakOne(); err != nil {
			return err
		}
	}
	return nil
}

// Drip has 1,000 sockets left by their peers, one each while, and says when each was,
// by its address.
func (h *Holder) Drip(every time.Duration, left *map[string]time.Time) error {
	*left = make(map[string]time.Time)
	for range 1000 {
		local, at, err := h.leakOne()
		if err != nil {
			return err
		}
		(*left)[local.String()] = at
		time.Sleep(every)
	}
	return nil
}

func (h *Holder) leakOne() (local netip.AddrPort, left time.Time, err error) {
	p, err := nstest.NewPair(h.listener)
	if err != nil {
		return local, left, err
	}
	h.stuck = append(h.stuck, p.Client)
	if local, err = p.Client.Local(); err != nil {
		return local, left, err
	}
	left = time.Now()
	return local, left, p.Server.Close()
}

// Talk has a connection carry 1,000 round trips a second for a while.
func (h *Holder) Talk(span time.Duration, _ *int) error {
	p, err := nstest.NewPair(h.listener)
	if err != nil {
		return err
	}
	go func() {
		defer p.Close()
		for began := time.Now(); time.Since(began) < span; time.Sleep(time.Millisecond) {
			if p.Client.Send(100) != nil || p.Server.Receive(100) != nil || p.Server.Send(100) != nil || p.Client.Receive(100) != nil {
				return
			}
		}
	}()
	return nil
}

func isKilled(s nstest.Socket) (bool, error) {
	info, err := unix.GetsockoptTCPInfo(int(s), unix.IPPROTO_TCP, unix.TCP_INFO)
	return err == nil && info.State == unix.BPF_TCP_CLOSE, err
}
