// Package sockdiag speaks NETLINK_SOCK_DIAG, and is the only package that does:
// it dumps the TCP sockets of a network namespace, asks for single ones and
// destroys them; and it dumps MPTCP connections. It decides nothing about them, and knows no
// other protocol.
package sockdiag

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/cgroup"
	"github.com/sockdog/sockdog/internal/netns"
	"github.com/sockdog/sockdog/internal/sock"
)

// A Conn is one netlink socket and the memory that it reuses. It belongs to one
// network namespace: that of the thread that opened it, or the one that OpenIn was
// given. What the kernel lets it do depends on the capabilities of the thread that
// sends: call it from one locked thread only (runtime.LockOSThread).
//
// After an error the next call opens a fresh socket, so that what the kernel
// still sends to the old one cannot mix into a later answer.
type Conn struct {
	now       func() sock.Instant
	dial      func() (link, error)
	link      link // nil after an error
	seq       uint32
	out       []byte // the request
	in        []byte // one datagram of the answer; nil without a link
	socket    sock.Socket
	perFamily bool // the kernel refuses to dump both families in one walk

	inUserSpace string // why, in the last scan
	cgroups     *cgroup.Tree
	cgroupNames cgroup.Batch // for the time of one scan or one question
	devices     map[uint32]device
}

// A link carries datagrams to the kernel and back.
type link interface {
	// port is the address at which the kernel answers.
	port() uint32
	// netns is the inode of the network namespace; 0: it is not known.
	netns() uint32
	// batch is how many single answers may wait to be read.
	batch() int
	send(b []byte) error
	// recv reads one datagram and returns its length, which is more than len(b)
	// if it was cut off.
	recv(b []byte) (int, error)
	close() error
	// deviceNames are the name of the device with that index in the link's network
	// namespace and its others, as in ssfilter.Conn; deviceIndex is its reverse.
	deviceNames(index uint32) (name, altNames string)
	deviceIndex(name string) (index uint32, ok bool)
}

// maxDatagram is the most that netlink_dump puts into one skb.
const maxDatagram = 32 << 10

// Open opens a Conn in the network namespace of the calling thread. The clock
// says when an answer came; cgroups names the cgroups of sockets, which have no
// name without it.
func Open(now func() sock.Instant, cgroups *cgroup.Tree) (*Conn, error) {
	return open(now, cgroups, func() (link, error) { return dialIn(inPlace) })
}

// OpenIn opens a Conn in a network namespace, which must be open whenever the Conn opens
// a fresh socket or asks for the names of a device; in any other the Conn is used as in
// its own. The socket keeps the namespace alive until Close.
func OpenIn(namespace *netns.Namespace, now func() sock.Instant, cgroups *cgroup.Tree) (*Conn, error) {
	return open(now, cgroups, func() (link, error) { return dialIn(namespace.Do) })
}

func open(now func() sock.Instant, cgroups *cgroup.Tree, dial func() (link, error)) (*Conn, error) {
	c := &Conn{now: now, cgroups: cgroups, devices: map[uint32]device{}, dial: dial}
	return c, c.ready()
}

// Close closes the netlink socket, and frees most of the memory: what is seldom used is
// best closed until then. A Conn that is used again opens a fresh socket.
func (c *Conn) Close() error {
	if c.link == nil {
		return nil
	}
	err := c.link.close()
	c.link, c.in = nil, nil
	return err
}

// ready sees to it that there is a link.
func (c *Conn) ready() error {
	if c.link != nil {
		return nil
	}
	link, err := c.dial()
	if err == nil {
		c.link, c.in = link, make([]byte, maxDatagram)
	}
	return err
}

// abandon gives up a link on which an answer may still be on its way.
func (c *Conn) abandon(err error) error {
	return errors.Join(err, c.Close())
}

var (
	errTruncated   = errors.New("the kernel's answer was cut short")
	errInterrupted = errors.New("the socket table changed under the dump (NLM_F_DUMP_INTR)")
	errOverrun     = errors.New("the kernel lost part of its answer (NLMSG_OVERRUN)")
	errStray       = errors.New("an answer to a question that was not asked")
)

// receive hands over the messages of an answer to the n requests from sequence
// number first on, until each says that it has had the last.
func (c *Conn) receive(first uint32, n int, each func(m message, got sock.Instant) (last bool, err error)) error {
	for {
		size, err := c.link.recv(c.in)
		if err != nil {
			return fmt.Errorf("receive from sock_diag: %w", err)
		}
		got := c.now()
		switch {
		case size == 0:
			return errMalformed
		case size > len(c.in):
			return errTruncated
		}
		for b := c.in[:size]; len(b) > 0; {
			var m message
			if m, b, err = nextMessage(b); err != nil {
				return err
			}
			switch {
			case m.port != c.link.port(), m.seq-first >= uint32(n):
				return errStray
			case m.flags&unix.NLM_F_DUMP_INTR != 0:
				return errInterrupted
			case m.kind == unix.NLMSG_OVERRUN:
				return errOverrun
			case m.kind == unix.NLMSG_NOOP:
				continue
			}
			if last, err := each(m, got); last || err != nil {
				return err
			}
		}
	}
}
