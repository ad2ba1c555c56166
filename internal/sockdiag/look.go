package sockdiag

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Look calls each for every socket that the query means: in one of its states,
// and where the expression is true. The socket is valid during the call
// only, which must not use the Conn; got is when the kernel's answer was in. A look is whole or an error, and
// after an error what each was given means nothing.
//
// The kernel selects by state and, where it takes the expression, by bytecode, so
// a socket that is not meant costs the walk of the table alone.
func (c *Conn) Look(q sock.Query, each func(s *sock.Socket, got sock.Instant)) error {
	if err := c.ready(); err != nil {
		return fmt.Errorf("look: %w", err)
	}
	err := c.look(&q, each)
	if err == nil {
		return nil
	}
	if !refused(err) { // a refusal is an answer in full
		err = c.abandon(err)
	}
	return fmt.Errorf("look: %w", err)
}

func (c *Conn) look(q *sock.Query, each func(s *sock.Socket, got sock.Instant)) error {
	if !c.perFamily {
		// The second form of the request dumps one family only, in a walk of the
		// whole host's table each.
		err := c.walk(unix.AF_UNSPEC, q, each)
		if !refused(err) {
			return err
		}
	}
	if err := c.walk(unix.AF_INET, q, each); err != nil {
		return err
	}
	if err := c.walk(unix.AF_INET6, q, each); err != nil {
		return err
	}
	c.perFamily = true
	return nil
}

// walk dumps with the expression in the kernel or, if the kernel will not have
// it, without.
func (c *Conn) walk(family uint8, q *sock.Query, each func(s *sock.Socket, got sock.Instant)) error {
	if filter := bytecode(q.Where); filter != nil {
		if err := c.dump(family, q, filter, each); !refused(err) {
			return err
		}
	}
	return c.dump(family, q, nil, each)
}

// bytecode is the attribute that makes the kernel evaluate an expression, or nil
// where there is none or it cannot be said in bytecode.
func bytecode(where ssfilter.Expr) []byte {
	if where == nil {
		return nil
	}
	program, err := ssfilter.Compile(where)
	if err != nil {
		return nil
	}
	// Not nl.RtAttr: it finds out the byte order under no lock, for every thread.
	attr := native.AppendUint16(nil, uint16(unix.SizeofNlAttr+len(program)))
	attr = native.AppendUint16(attr, inetDiagReqBytecode)
	return append(attr, program...) // a program's length is a multiple of 4
}

// refusal is the kernel's answer to a request whose form it will not have, before
// any socket.
type refusal struct{ errno unix.Errno }

func (r refusal) Error() string { return "the kernel refuses to dump sockets: " + r.errno.Error() }
func (r refusal) Unwrap() error { return r.errno }

func refused(err error) bool {
	if err == nil {
		return false
	}
	var no refusal
	return errors.As(err, &no)
}

// refuses tells a refusal from a failure.
func refuses(errno unix.Errno) bool {
	switch errno {
	case unix.EINVAL, unix.EPERM, unix.EACCES, unix.EOPNOTSUPP, unix.ENOENT:
		return true
	}
	return false
}

// dump makes one request and reads the whole answer to it.
func (c *Conn) dump(family uint8, q *sock.Query, filter []byte, each func(s *sock.Socket, got sock.Instant)) error {
	c.seq++
	c.out = appendDump(c.out[:0], c.seq, family, q.States, filter)
	want := native.Uint16(c.out[4:]) // an answer has the type of its request
	if err := c.link.send(c.out); err != nil {
		return fmt.Errorf("ask sock_diag for a dump: %w", err)
	}
	begun := false
	return c.receive(c.seq, 1, func(m message, got sock.Instant) (last bool, err error) {
		switch m.kind {
		case want:
			begun = true
			if err := decode(&c.socket, m.data); err != nil {
				return false, err
			}
			if q.States.Has(c.socket.State) && (q.Where == nil || q.Where.Eval(&c.socket.Conn) == ssfilter.True) {
				each(&c.socket, got)
			}
			return false, nil
		case unix.NLMSG_ERROR:
			errno, err := m.errno()
			switch {
			case err != nil:
				return true, err
			case errno == 0:
				return true, errMalformed
			case refuses(errno) && !begun:
				return true, refusal{errno}
			default:
				return true, fmt.Errorf("the dump failed: %w", errno)
			}
		case unix.NLMSG_DONE:
			errno, err := m.errno()
			if err == nil && errno != 0 {
				err = fmt.Errorf("the dump ended early: %w", errno)
			}
			return true, err
		default:
			return true, errMalformed
		}
	})
}
