package sockdiag

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/sock"
)

var (
	errNotSent      = errors.New("not asked for")
	errNotConnected = errors.New("the socket has no peer: a listening socket is never destroyed")
)

// Destroy destroys sockets and returns one outcome for each ID, in their order,
// in the memory of outcomes if there is enough: nil for a socket that was
// destroyed, sock.ErrGone, sock.ErrUnconfirmed, or the kernel's unix.Errno: EPERM without
// CAP_NET_ADMIN over the network namespace, EOPNOTSUPP where the kernel cannot
// do it. The error is that of the connection to the kernel.
//
// The kernel matches addresses, interface and cookie, and no more than these: who
// calls has asked just before whether the socket is still in its state.
func (c *Conn) Destroy(ids []sock.ID, outcomes []error) ([]error, error) {
	outcomes = slices.Grow(outcomes[:0], len(ids))[:len(ids)]
	for i := range ids {
		switch {
		case !hasCookie(&ids[i]):
			outcomes[i] = errNoCookie
		case ids[i].DPort == [2]byte{}:
			outcomes[i] = errNotConnected
		default:
			outcomes[i] = errNotSent
		}
	}
	return outcomes, c.destroy(ids, outcomes)
}

// destroy destroys the sockets whose outcome is errNotSent, batch by batch.
func (c *Conn) destroy(ids []sock.ID, outcomes []error) error {
	for len(ids) > 0 {
		err := c.ready()
		if err == nil {
			n := min(c.link.batch(), len(ids))
			err = c.destroyBatch(ids[:n], outcomes[:n])
			if err == nil {
				ids, outcomes = ids[n:], outcomes[n:]
				continue
			}
			err = c.abandon(err)
		}
		err = fmt.Errorf("destroy sockets: %w", err)
		replace(outcomes, errNotSent, err)
		return err
	}
	return nil
}

// destroyBatch sends one batch and reads the outcomes. A failed request answers
// unasked and a good one is silent; so only the last asks for an acknowledgement,
// and when its answer is there every failure before it has been read.
func (c *Conn) destroyBatch(ids []sock.ID, outcomes []error) error {
	first, last, flags := c.seq, -1, 0
	c.out = c.out[:0]
	for i := range ids {
		if errors.Is(outcomes[i], errNotSent) {
			last, flags = i, len(c.out)+6
			c.out = appendExact(c.out, nl.SOCK_DESTROY, first+uint32(i), &ids[i])
		}
	}
	c.seq += uint32(len(ids))
	if last < 0 {
		return nil
	}
	native.PutUint16(c.out[flags:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	if err := c.link.send(c.out); err != nil {
		return err
	}
	replace(outcomes, errNotSent, sock.ErrUnconfirmed)
	err := c.receive(first, len(ids), func(m message, _ sock.Instant) (bool, error) {
		i := int(m.seq - first)
		if m.kind != unix.NLMSG_ERROR {
			return false, errMalformed
		}
		errno, err := m.errno()
		switch {
		case err != nil:
			return false, err
		case !errors.Is(outcomes[i], sock.ErrUnconfirmed), errno == 0 && i != last:
			return false, errStray
		case errno == unix.ENOENT:
			outcomes[i] = sock.ErrGone
		case errno != 0:
			outcomes[i] = errno
		}
		return i == last, nil
	})
	if err == nil {
		replace(outcomes, sock.ErrUnconfirmed, nil)
	}
	return err
}

func replace(outcomes []error, old, by error) {
	for i := range outcomes {
		if errors.Is(outcomes[i], old) {
			outcomes[i] = by
		}
	}
}
