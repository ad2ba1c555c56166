package demo

import (
	"fmt"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/source/sockdiag"
)

// address is the database's: the namespace is empty, so the port is free.
var address = netip.AddrPortFrom(nstest.V4, 5432)

// database is the far end of the connections, and knows from the kernel's socket
// table what becomes of the near one.
type database struct {
	listener nstest.Socket
	conns    []*conn
	serving  sync.WaitGroup

	now     func() sock.Instant
	kernel  *sockdiag.Conn
	ids     []sock.ID // of the conns
	answers []sock.Answer
}

func openDatabase() (d *database, err error) {
	d = &database{}
	if d.now, err = sock.Clock(); err != nil {
		return nil, err
	}
	if d.kernel, err = sockdiag.Open(d.now, nil); err != nil {
		return nil, err
	}
	d.listener, err = nstest.ListenAt(address, unix.IPPROTO_TCP)
	return d, err
}

// welcome accepts the program's connections, and serves those that it uses.
func (d *database) welcome() error {
	for _, role := range roles {
		peer, err := d.listener.Accept()
		if err != nil {
			return err
		}
		c := &conn{role: role, peer: peer}
		d.conns = append(d.conns, c)
		if c.at, err = peer.Remote(); err != nil {
			return err
		}
		near, found, err := d.kernel.Find(c.at, address)
		switch {
		case err != nil:
			return err
		case !found:
			return fmt.Errorf("the kernel does not show the connection from %v", c.at)
		}
		d.ids = append(d.ids, near.ID)
		if role == upload {
			if err := peer.CloseWrite(); err != nil {
				return fmt.Errorf("half-close a connection: %w", err)
			}
		}
		if role != forgot {
			d.serving.Go(func() {
				for peer.Receive(1) == nil && (role == upload || peer.Send(1) == nil) {
				}
			})
		}
	}
	return nil
}

// leave closes the connections of a round, which the program will have forgotten.
func (d *database) leave(round int) error {
	for _, c := range d.conns[(round-1)*perRound : round*perRound] {
		c.closed = d.now()
		if err := c.peer.Close(); err != nil {
			return fmt.Errorf("close a connection of the database: %w", err)
		}
	}
	return nil
}

// follow asks the kernel what became of the connections.
func (d *database) follow() (err error) {
	if d.answers, err = d.kernel.Lookup(d.ids, d.answers); err != nil {
		return err
	}
	for i := range d.answers {
		c, a := d.conns[i], &d.answers[i]
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

// close closes what is left, after the program has ended.
func (d *database) close() {
	d.serving.Wait()
	for _, c := range d.conns {
		if c.closed == 0 {
			c.peer.Close()
		}
	}
	d.listener.Close()
	d.kernel.Close()
}
