package sockdiag

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Scan calls each for every socket that the query means: in one of its states,
// and where the expression holds. The socket is valid during the call only, which
// must not use the Conn; got is when the kernel's answer was in. A scan is whole
// or an error, and after an error what each was given means nothing.
//
// The kernel selects by state and, where it takes the expression, by bytecode, so
// a socket that is not meant costs the walk of the table alone. It knows more than
// it tells: where it took the whole expression, a socket is meant for which Eval
// says Unknown. Where the expression is matched in user space, Eval must say True.
//
// That the kernel chose a socket's port it tells by bytecode only. An expression
// that asks for it costs two walks, of the sockets that are autobound and of the
// others, and each is shown with its answer.
func (c *Conn) Scan(q sock.Query, each func(s *sock.Socket, got sock.Instant)) error {
	c.inUserSpace = ""
	if err := c.ready(); err != nil {
		return fmt.Errorf("scan: %w", err)
	}
	c.cgroupNames = c.cgroups.Batch()
	err := c.scan(&q, each)
	if err == nil {
		return nil
	}
	if !refused(err) { // a refusal is an answer in full
		err = c.abandon(err)
	}
	return fmt.Errorf("scan: %w", err)
}

// InUserSpace says why the last scan was not left to the kernel as a whole but
// matched in user space; "" if it was left to the kernel.
func (c *Conn) InUserSpace() string { return c.inUserSpace }

func (c *Conn) scan(q *sock.Query, each func(s *sock.Socket, got sock.Instant)) error {
	if !c.perFamily {
		// The second form of the request dumps one family only, in a walk of the
		// whole host's table each.
		err := c.walk(unix.AF_UNSPEC, q, each)
		if !refused(err) {
			return err
		}
	}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		if err := c.walk(family, q, each); err != nil {
			return err
		}
	}
	c.perFamily = true
	return nil
}

// walk dumps with the expression in the kernel or, if the kernel will not have
// it, without. An expression that asks for it splits the sockets into those that are
// autobound and the others.
func (c *Conn) walk(family uint8, q *sock.Query, each func(s *sock.Socket, got sock.Instant)) error {
	if q.Where == nil {
		return c.dump(family, &pass{states: q.States, whole: true}, each)
	}
	parts := []part{{nil, ssfilter.Unknown}}
	if ssfilter.Asks(q.Where).Autobound {
		autobound := ssfilter.Autobound()
		parts = []part{{autobound, ssfilter.True}, {ssfilter.Not(autobound), ssfilter.False}}
	}
	for i, part := range parts {
		err := c.walkPart(family, q, part, each)
		switch {
		case err == nil:
			continue
		case !unfit(err):
			return err
		case i > 0: // not to be tried in another way: the first half is told already
			return fmt.Errorf("the kernel told half of the sockets only: %s", why(err))
		}
		plain := c.dump(family, &pass{states: q.States, where: q.Where}, each)
		if !refused(plain) {
			c.inUserSpace = why(err)
		}
		return plain
	}
	return nil
}

// A part is the sockets that the kernel can tell from the others.
type part struct {
	where     ssfilter.Expr // nil: all
	autobound ssfilter.Tri  // what that says of each
}

// walkPart dumps one part of the sockets with the expression in the kernel, or
// with as much of it as fits. An error that is unfit means that nothing was dumped.
func (c *Conn) walkPart(family uint8, q *sock.Query, of part, each func(s *sock.Socket, got sock.Instant)) error {
	p := pass{states: q.States, where: q.Where, whole: true, autobound: of.autobound}
	var err error
	if p.filter, err = c.bytecode(ssfilter.And(of.where, q.Where)); err == nil {
		err = c.dump(family, &p, each)
	}
	if !unfit(err) {
		return err
	}
	weaker := ssfilter.And(of.where, portsOf(q.Where))
	if weaker == nil {
		return err
	}
	filter, second := c.bytecode(weaker)
	if second != nil || bytes.Equal(filter, p.filter) {
		return err
	}
	p.filter, p.whole = filter, false
	if second = c.dump(family, &p, each); unfit(second) {
		return err
	}
	c.inUserSpace = why(err)
	return second
}

// A pass is one way to dump.
type pass struct {
	states    ssfilter.StateSet
	where     ssfilter.Expr // nil: every socket
	filter    []byte        // the attribute that makes the kernel select; nil: none
	whole     bool          // the kernel selects by all of where
	autobound ssfilter.Tri  // what filter says of each socket
}

// means reports whether a socket that the kernel sent is one of those asked for.
func (p *pass) means(s *sock.Socket) bool {
	if !p.states.Has(s.State) {
		return false
	}
	if p.where == nil {
		return true
	}
	holds := p.where.Eval(&s.Conn)
	return holds == ssfilter.True || p.whole && holds == ssfilter.Unknown
}

// errRefused begins the kernel's answer to a request whose form it will not have,
// before any socket.
var errRefused = errors.New("the kernel refuses to dump sockets")

func refused(err error) bool { return errors.Is(err, errRefused) }

// refuses tells a refusal from a failure.
func refuses(err error) bool {
	return slices.Contains([]error{unix.EINVAL, unix.EPERM, unix.EACCES, unix.EOPNOTSUPP, unix.ENOENT}, err)
}

// dump makes one request and reads the whole answer to it.
func (c *Conn) dump(family uint8, p *pass, each func(s *sock.Socket, got sock.Instant)) error {
	c.seq++
	c.out = appendDump(c.out[:0], c.seq, family, p.states, p.filter)
	return c.request(p, each)
}

// request sends the request for a dump that was put together, and reads the whole answer.
func (c *Conn) request(p *pass, each func(s *sock.Socket, got sock.Instant)) error {
	want := native.Uint16(c.out[4:]) // an answer has the type of its request
	if err := c.link.send(c.out); err != nil {
		return fmt.Errorf("ask sock_diag for a dump: %w", err)
	}
	begun := false
	return c.receive(c.seq, 1, func(m message, got sock.Instant) (last bool, err error) {
		switch m.kind {
		case want:
			begun = true
			if err := c.read(&c.socket, m.data); err != nil {
				return false, err
			}
			c.socket.Autobound = p.autobound
			if p.means(&c.socket) {
				each(&c.socket, got)
			}
			return false, nil
		case unix.NLMSG_ERROR:
			err := m.err()
			switch {
			case err == nil:
				return true, errMalformed
			case refuses(err) && !begun:
				return true, fmt.Errorf("%w: %w", errRefused, err)
			}
			return true, fmt.Errorf("the dump failed: %w", err)
		case unix.NLMSG_DONE:
			if err := m.err(); err != nil {
				return true, fmt.Errorf("the dump ended early: %w", err)
			}
			return true, nil
		default:
			return true, errMalformed
		}
	})
}
