package events_test

import (
	"net/netip"
	"testing"

	"github.com/sockdog/sockdog/internal/nstest"
)

// pair is both ends of a connection, and is closed with the test.
type pair struct{ client, server nstest.Socket }

func connect(t testing.TB, addr netip.Addr) pair {
	t.Helper()
	l := must(nstest.Listen(addr))(t)
	defer l.Close()
	return connectTo(t, l)
}

func connectTo(t testing.TB, l nstest.Socket) pair {
	t.Helper()
	client := must(nstest.Connect(must(l.Local())(t)))(t)
	p := pair{client, must(l.Accept())(t)}
	t.Cleanup(func() { p.client.Close(); p.server.Close() }) // closed already, where the test does it: their numbers are not used again before it ends
	return p
}
