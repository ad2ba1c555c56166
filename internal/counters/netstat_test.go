package counters

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
)

// What finds an accept queue full is counted.
func TestReadOverflows(t *testing.T) {
	nstest.Isolate(t)
	const net = "/proc/thread-self/net"
	if n, err := ReadOverflows(net); n != 0 || err != nil {
		t.Fatalf("%d, %v in a new namespace", n, err)
	}
	l, err := nstest.New(nstest.V4, unix.IPPROTO_TCP)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.Bind(netip.AddrPortFrom(nstest.V4, 0)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(int(l), 0); err != nil { // which has room for one
		t.Fatal(err)
	}
	at, err := l.Local()
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		s, err := nstest.New(nstest.V4, unix.IPPROTO_TCP)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := s.BeginConnect(at); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		n, err := ReadOverflows(net)
		if err != nil {
			t.Fatal(err)
		}
		if n > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no overflow is counted")
		}
	}
}

func TestReadOverflowsUnreadable(t *testing.T) {
	dir := t.TempDir()
	if _, err := ReadOverflows(dir); err == nil {
		t.Error("no error without the file")
	}
	if err := os.WriteFile(filepath.Join(dir, "netstat"), []byte("TcpExt: A B\nTcpExt: 1 2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadOverflows(dir); err == nil {
		t.Error("no error without the column")
	}
}
