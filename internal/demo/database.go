package demo

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
)

// database is the far end of the connections.
type database struct {
	listener nstest.Socket
	conns    []*conn
	serving  sync.WaitGroup
}

func openDatabase() (*database, error) {
	listener, err := nstest.ListenAt(address, unix.IPPROTO_TCP)
	if err != nil {
		return nil, err
	}
	return &database{listener: listener}, nil
}

// welcome accepts the program's connections, and serves those that it uses.
func (d *database) welcome() error {
	for i := range forgotten + busy + uploads {
		peer, err := d.listener.Accept()
		if err != nil {
			return err
		}
		c := &conn{role: forgot, peer: peer}
		d.conns = append(d.conns, c)
		switch {
		case i < forgotten:
		case i < forgotten+busy:
			c.role = inUse
			d.serving.Go(func() { answer(peer) })
		default:
			c.role = upload
			if err := peer.CloseWrite(); err != nil {
				return fmt.Errorf("half-close a connection: %w", err)
			}
			d.serving.Go(func() { take(peer) })
		}
	}
	return nil
}

// answer serves queries until the connection ends.
func answer(peer nstest.Socket) {
	for peer.Receive(1) == nil && peer.Send(1) == nil {
	}
}

// take reads until the connection ends.
func take(peer nstest.Socket) {
	for peer.Receive(1) == nil {
	}
}

// closeSome closes the next connections that the program will have forgotten.
func (d *database) closeSome(now func() sock.Instant) error {
	left := perRound
	for _, c := range d.conns {
		if left == 0 {
			break
		}
		if c.role != forgot || c.closed != 0 {
			continue
		}
		c.closed = now()
		if err := c.peer.Close(); err != nil {
			return fmt.Errorf("close a connection of the database: %w", err)
		}
		left--
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
}
