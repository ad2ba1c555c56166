package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/sockdog/sockdog/internal/nstest"
)

// crowd is a process that holds sockets: one may have only so many descriptors.
type crowd struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *bufio.Reader
	where netip.Addr
}

// The numbers of those that measurements gather for themselves: each needs a
// loopback address of its own, far from those that stand by.
const (
	listLeak    = 249
	commandLeak = 248
	scanLeak    = 250
	killLeak    = 251
	idleTalker  = 252
	dueLeak     = 253
)

// gather starts a process that holds n established sockets, both ends counted,
// on an address of its own, so that no two share a range of ephemeral ports.
func gather(number, n int) (*crowd, error) {
	c := &crowd{where: netip.AddrFrom4([4]byte{127, 1, 0, byte(number)})}
	c.cmd = exec.Command("/proc/self/exe", "-holder", c.where.String())
	c.cmd.Stderr = os.Stderr
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = bufio.NewReader(out)
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	if err := c.tell(fmt.Sprint("pairs ", n/2)); err != nil {
		c.end()
		return nil, err
	}
	return c, nil
}

// tell gives an order and waits until it is carried out.
func (c *crowd) tell(order string) error {
	if _, err := fmt.Fprintln(c.in, order); err != nil {
		return err
	}
	answer, err := c.out.ReadString('\n')
	if err != nil {
		return fmt.Errorf("%s: the process that holds the sockets ended: %w", order, err)
	}
	if answer != "done\n" {
		return errors.New(order + ": " + strings.TrimSpace(answer))
	}
	return nil
}

// when says at which instant each socket of the last drip was left by its peer,
// by the local endpoint.
func (c *crowd) when() (map[string]time.Time, error) {
	if _, err := fmt.Fprintln(c.in, "when 0"); err != nil {
		return nil, err
	}
	left := make(map[string]time.Time)
	for {
		line, err := c.out.ReadString('\n')
		if err != nil {
			return nil, err
		}
		if line == "done\n" {
			return left, nil
		}
		local, at, _ := strings.Cut(strings.TrimSpace(line), " ")
		ns, err := strconv.ParseInt(at, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("when: %q: %w", line, err)
		}
		left[local] = time.Unix(0, ns)
	}
}

func (c *crowd) end() {
	c.in.Close()
	c.cmd.Wait()
}

// holder is what such a process holds.
type holder struct {
	listener nstest.Socket
	pairs    []nstest.Pair
	stuck    []nstest.Socket
	left     map[netip.AddrPort]time.Time
}

// hold carries out orders from standard input until that ends.
func hold(address string) error {
	at, err := netip.ParseAddr(address)
	if err != nil {
		return err
	}
	var h holder
	if h.listener, err = nstest.Listen(at); err != nil {
		return err
	}
	orders := bufio.NewScanner(os.Stdin)
	for orders.Scan() {
		order, number, _ := strings.Cut(orders.Text(), " ")
		n, err := strconv.Atoi(number)
		if err == nil {
			err = h.obey(order, n)
		}
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println("done")
	}
	return orders.Err()
}

func (h *holder) obey(order string, n int) error {
	switch order {
	case "pairs":
		for range n {
			p, err := nstest.NewPair(h.listener)
			if err != nil {
				return err
			}
			h.pairs = append(h.pairs, p)
		}
	case "leak":
		// Sockets that were killed give their descriptors back here.
		for _, s := range h.stuck {
			s.Close()
		}
		h.stuck = h.stuck[:0]
		return h.leak(n, 0)
	case "drip": // one every n microseconds, a thousand in all
		return h.leak(1000, time.Duration(n)*time.Microsecond)
	case "talk": // for so many seconds, 1,000 round trips a second
		p, err := nstest.NewPair(h.listener)
		if err != nil {
			return err
		}
		go talk(p, time.Duration(n)*time.Second)
	case "when":
		for local, at := range h.left {
			fmt.Println(local, at.UnixNano())
		}
	default:
		return fmt.Errorf("no such order: %s", order)
	}
	return nil
}

func (h *holder) leak(n int, every time.Duration) error {
	h.left = make(map[netip.AddrPort]time.Time)
	for range n {
		p, err := nstest.NewPair(h.listener)
		if err != nil {
			return err
		}
		local, err := p.Client.Local()
		if err != nil {
			return err
		}
		h.left[local] = time.Now()
		p.Server.Close()
		h.stuck = append(h.stuck, p.Client)
		time.Sleep(every)
	}
	return nil
}

func talk(p nstest.Pair, span time.Duration) {
	defer p.Close()
	for began := time.Now(); time.Since(began) < span; time.Sleep(time.Millisecond) {
		if p.Client.Send(100) != nil || p.Server.Receive(100) != nil || p.Server.Send(100) != nil || p.Client.Receive(100) != nil {
			return
		}
	}
}
