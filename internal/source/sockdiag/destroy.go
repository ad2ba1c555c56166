package sockdiag

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/sock"
)

var errNotConnected = errors.New("the socket has no peer: a listening socket is never destroyed")

// Destroy destroys a socket. The error is sock.ErrGone, or sock.ErrUnconfirmed where
// the kernel was told and its answer was lost, or the kernel's unix.Errno: EPERM
// without CAP_NET_ADMIN over the network namespace, EOPNOTSUPP where the kernel
// cannot do it.
//
// The kernel matches addresses, interface and cookie, and no more than these: who
// calls has asked just before whether the socket is still in its state.
func (c *Conn) Destroy(id sock.ID) error {
	switch {
	case !hasCookie(&id):
		return errNoCookie
	case id.DPort == [2]byte{}:
		return errNotConnected
	}
	return c.destroy(&id)
}

// destroy destroys a socket, be it a listening one.
func (c *Conn) destroy(id *sock.ID) error {
	err := c.ready()
	if err == nil {
		c.seq++
		c.out = appendExact(c.out[:0], nl.SOCK_DESTROY, unix.NLM_F_ACK, c.seq, id)
		if err = c.link.send(c.out); err != nil {
			err = c.abandon(err)
		}
	}
	if err != nil {
		return fmt.Errorf("destroy a socket: %w", err)
	}
	var outcome error
	err = c.receive(c.seq, 1, func(m message, _ sock.Instant) (last bool, err error) {
		if m.kind != unix.NLMSG_ERROR {
			return false, errMalformed
		}
		switch errno, err := m.errno(); {
		case err != nil:
			return false, err
		case errno == unix.ENOENT:
			outcome = sock.ErrGone
		case errno != 0:
			outcome = errno
		}
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("%w: %w", sock.ErrUnconfirmed, c.abandon(err))
	}
	return outcome
}
