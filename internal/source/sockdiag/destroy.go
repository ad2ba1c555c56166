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
	answer := []sock.Answer{{ID: *id, Err: errUnanswered}}
	sent, err := c.exchange(nl.SOCK_DESTROY, unix.NLM_F_ACK, answer)
	switch {
	case err != nil && !sent:
		return fmt.Errorf("destroy a socket: %w", err)
	case err != nil:
		return fmt.Errorf("%w: %w", sock.ErrUnconfirmed, err)
	case answer[0].Gone:
		return sock.ErrGone
	default:
		return answer[0].Err
	}
}
