package nstest

import (
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Pair is one connection, both ends in this process.
type Pair struct {
	Client, Server Socket
}

// NewPair connects to a listener and accepts the connection.
func NewPair(listener Socket) (Pair, error) {
	at, err := listener.Local()
	if err != nil {
		return Pair{}, err
	}
	client, err := Connect(at)
	if err != nil {
		return Pair{}, err
	}
	server, err := listener.Accept()
	_, err = client.orClose(err)
	return Pair{Client: client, Server: server}, err
}

// Close closes both ends.
func (p Pair) Close() error { return errors.Join(p.Client.Close(), p.Server.Close()) }

// Side is an end of a connection.
type Side int

// The ends of a connection.
const (
	ClientSide Side = iota
	ServerSide
)

// Leak is a number of sockets that their program failed to close.
type Leak struct {
	Stuck    []Socket
	listener Socket
}

// CloseWait makes n sockets in CLOSE_WAIT on a loopback address, accepted ones or
// connected ones: their peers have been closed, and nobody has read the end of the
// stream.
func CloseWait(addr netip.Addr, side Side, n int) (_ *Leak, err error) {
	leak := &Leak{}
	if leak.listener, err = Listen(addr); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			leak.Close()
		}
	}()
	for range n {
		p, err := NewPair(leak.listener)
		if err != nil {
			return nil, err
		}
		stuck, peer := p.Client, p.Server
		if side == ServerSide {
			stuck, peer = p.Server, p.Client
		}
		leak.Stuck = append(leak.Stuck, stuck)
		if err := errors.Join(peer.Close(), stuck.Await(unix.BPF_TCP_CLOSE_WAIT)); err != nil {
			return nil, err
		}
	}
	return leak, nil
}

// MPTCPCloseWait is one connection of Multipath TCP that its client leaks.
func MPTCPCloseWait(addr netip.Addr) (_ *Leak, err error) {
	leak := &Leak{}
	defer func() {
		if err != nil {
			leak.Close()
		}
	}()
	if leak.listener, err = ListenAt(netip.AddrPortFrom(addr, 0), unix.IPPROTO_MPTCP); err != nil {
		return nil, err
	}
	at, err := leak.listener.Local()
	if err != nil {
		return nil, err
	}
	client, err := New(addr, unix.IPPROTO_MPTCP)
	if err != nil {
		return nil, err
	}
	leak.Stuck = []Socket{client}
	if err := client.Connect(at); err != nil {
		return nil, err
	}
	server, err := leak.listener.Accept()
	if err != nil {
		return nil, err
	}
	if err := server.Close(); err != nil {
		return nil, err
	}
	if client.Receive(1) == nil {
		return nil, errors.New("no end of the stream")
	}
	return leak, nil
}

// Close closes every descriptor of the leak, and the listener. Another call does nothing: the
// numbers may be others' descriptors by then.
func (l *Leak) Close() error {
	if l.listener < 0 {
		return nil
	}
	errs := []error{l.listener.Close()}
	l.listener = -1
	for _, s := range l.Stuck {
		errs = append(errs, s.Close())
	}
	l.Stuck = nil
	return errors.Join(errs...)
}
