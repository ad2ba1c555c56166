package demo

import (
	"fmt"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/source/sockdiag"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// table is the kernel's socket table: it says what is true.
type table struct {
	now     func() sock.Instant
	kernel  *sockdiag.Conn
	ids     []sock.ID
	answers []sock.Answer
}

func openTable() (*table, error) {
	now, err := sock.Clock()
	if err != nil {
		return nil, err
	}
	kernel, err := sockdiag.Open(now, nil)
	return &table{now: now, kernel: kernel}, err
}

// identify finds the program's ends of all connections.
func (t *table) identify(conns []*conn) error {
	ids := make(map[uint16]sock.ID) // by the port of the program's end
	program := sock.Query{States: ssfilter.Of(ssfilter.Established, ssfilter.CloseWait), Where: ssfilter.Ports(ssfilter.Dst, ssfilter.PortRange{First: address.Port(), Last: address.Port()})}
	err := t.kernel.Scan(program, func(s *sock.Socket, _ sock.Instant) { ids[s.Src.Port()] = s.ID })
	if err != nil {
		return err
	}
	for _, c := range conns {
		at, err := c.peer.Remote()
		if err != nil {
			return fmt.Errorf("find the program's end of a connection: %w", err)
		}
		id, ok := ids[at.Port()]
		if !ok {
			return fmt.Errorf("the kernel does not show the connection from %v", at)
		}
		c.id, c.at = id, at
		t.ids = append(t.ids, id)
	}
	return nil
}

// follow asks what became of the connections.
func (t *table) follow(conns []*conn) (err error) {
	if t.answers, err = t.kernel.Lookup(t.ids, t.answers); err != nil {
		return err
	}
	for i := range t.answers {
		c, a := conns[i], &t.answers[i]
		switch {
		case a.Err != nil:
			return fmt.Errorf("ask for the connection from %v: %w", c.at, a.Err)
		case !a.Gone:
			c.state = a.Socket.State
			c.bytes = a.Socket.Info.BytesAcked + a.Socket.Info.BytesReceived
		case c.gone == 0:
			c.gone = a.Got
		}
	}
	return nil
}

func (t *table) close() error { return t.kernel.Close() }
