package realtest

import (
	"net"
	"testing"
)

// Listen takes connections on loopback until the test ends, has each served and closes it. It
// returns the address.
func Listen(t testing.TB, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer conn.Close(); serve(conn) }()
		}
	}()
	return l.Addr().String()
}

// Unused returns an address of loopback on which nobody listens.
func Unused(t testing.TB) string {
	t.Helper()
	address, err := unused()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

func unused() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
