package sockdiag

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// errUnanswered stands in an answer until there is one.
var errUnanswered = errors.New("the kernel did not answer")

// errNoCookie: without its cookie an ID means whatever socket has its addresses,
// or the listener of its port.
var errNoCookie = errors.New("the socket's cookie is not known")

// noCookie is INET_DIAG_NOCOOKIE in both halves.
const noCookie = nl.TCPDIAG_NOCOOKIE<<32 | nl.TCPDIAG_NOCOOKIE

// Lookup asks for single sockets and returns one answer for each ID, in their order,
// in the memory of answers if there is enough. An answer's socket is the one with
// the cookie: it may be in another state by now, or have been connected
// elsewhere. The error is that of the connection to the kernel; the answers that
// it cost carry it too.
func (c *Conn) Lookup(ids []sock.ID, answers []sock.Answer) ([]sock.Answer, error) {
	answers = slices.Grow(answers[:0], len(ids))[:len(ids)]
	for i := range answers {
		answers[i] = sock.Answer{ID: ids[i], Err: errUnanswered}
		if !hasCookie(&ids[i]) {
			answers[i].Err = errNoCookie
		}
	}
	c.cgroupNames = c.cgroups.Batch()
	clear(c.devices) // what is acted on must be the present truth
	for rest := answers; len(rest) > 0; {
		err := c.ready()
		if err == nil {
			n := min(c.link.batch(), len(rest))
			if _, err = c.exchange(nl.SOCK_DIAG_BY_FAMILY, 0, rest[:n]); err == nil {
				rest = rest[n:]
				continue
			}
		}
		err = fmt.Errorf("ask for %d sockets: %w", len(ids), err)
		for i := range rest {
			if errors.Is(rest[i].Err, errUnanswered) {
				rest[i].Err = err
			}
		}
		return answers, err
	}
	return answers, nil
}

// exchange fills in the answers that one send asks for: those that there is nothing in
// yet. Sent reports whether the kernel was asked; after an error its answer is lost.
func (c *Conn) exchange(kind, flags uint16, answers []sock.Answer) (sent bool, err error) {
	if err := c.ready(); err != nil {
		return false, err
	}
	began, first, waiting := c.now(), c.seq+1, 0
	c.out = c.out[:0]
	for i := range answers {
		if errors.Is(answers[i].Err, errUnanswered) {
			c.out = appendExact(c.out, kind, flags, first+uint32(i), &answers[i].ID)
			waiting++
		}
	}
	c.seq += uint32(len(answers))
	if waiting == 0 {
		return false, nil
	}
	if err := c.link.send(c.out); err != nil {
		return false, c.abandon(err)
	}
	err = c.receive(first, len(answers), func(m message, got sock.Instant) (last bool, err error) {
		a := &answers[m.seq-first]
		if !errors.Is(a.Err, errUnanswered) {
			return false, errStray
		}
		a.Sent, a.Got = began, got
		switch m.kind {
		case nl.SOCK_DIAG_BY_FAMILY:
			if kind != m.kind {
				return false, errMalformed
			}
			if err := c.read(&a.Socket, m.data); err != nil {
				return false, err
			}
			a.Err = nil
			// The kernel takes a socket that ends out of its table, takes its port away, and then
			// closes it (tcp_set_state): one that is not connected, or has no port, was found in
			// between.
			a.Gone = a.Socket.State == ssfilter.BoundInactive || a.Socket.Src.Port() == 0
		case unix.NLMSG_ERROR:
			err := m.err()
			switch {
			case errors.Is(err, errMalformed), err == nil && flags&unix.NLM_F_ACK == 0:
				return false, errMalformed
			case errors.Is(err, unix.ENOENT):
				a.Gone, a.Err = true, nil
			default:
				a.Err = err
			}
		default:
			return false, errMalformed
		}
		waiting--
		return waiting == 0, nil
	})
	if err != nil {
		err = c.abandon(err)
	}
	return true, err
}

func hasCookie(id *sock.ID) bool { return id.Cookie != 0 && id.Cookie != noCookie }
