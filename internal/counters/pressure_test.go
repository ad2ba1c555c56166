package counters

import (
	"bytes"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/netns"
	"github.com/sockdog/sockdog/internal/nstest"
)

// TestListenDrops overflows an accept queue: what ListenOverflows counts, ListenDrops counts
// as well, so that the two are not to be added up.
func TestListenDrops(t *testing.T) {
	nstest.Isolate(t)
	r, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	count := func() (drops, overflows uint64) {
		t.Helper()
		p, err := r.Pressure()
		if err != nil || len(p.ListenDrops) != 1 {
			t.Fatalf("%+v, %v", p, err)
		}
		if p.HasOrphans || p.HasMemory {
			t.Errorf("%+v: limits of the host in a namespace of its own", p)
		}
		text, err := r.netstat.read()
		if err != nil {
			t.Fatal(err)
		}
		overflows, _ = column(text, "TcpExt:", "ListenOverflows")
		return p.ListenDrops[netns.Inode()], overflows
	}
	if drops, overflows := count(); drops+overflows != 0 {
		t.Fatalf("a fresh namespace has dropped %d, and overflowed %d times", drops, overflows)
	}
	l, err := nstest.Listen(nstest.V4)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := unix.Listen(int(l), 0); err != nil { // of which one connection fits
		t.Fatal(err)
	}
	at, err := l.Local()
	if err != nil {
		t.Fatal(err)
	}
	first, err := nstest.Connect(at)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	second, err := nstest.New(nstest.V4, unix.IPPROTO_TCP)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if err := second.BeginConnect(at); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		drops, overflows := count()
		if drops > 0 {
			if drops != overflows {
				t.Errorf("%d dropped, and %d overflows", drops, overflows)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing is dropped")
		}
	}
}

func TestPercent(t *testing.T) {
	for _, test := range []struct {
		n      uint64
		limits string
		many   int
		want   float64
		known  bool
	}{
		{12, "131072\n", 1, 100 * 12.0 / 131072, true},
		{287898, "143949\t191932\t287898\n", 3, 100, true},
		{575796, "143949\t191932\t287898\n", 3, 200, true},
		{1, "0\n", 1, 0, false},
		{1, "1 2\n", 3, 0, false},
		{1, "many\n", 1, 0, false},
		{1, "", 1, 0, false},
	} {
		if got, known := percent(test.n, bytes.Fields([]byte(test.limits)), test.many); got != test.want || known != test.known {
			t.Errorf("%d of %q: %v, %v, want %v, %v", test.n, test.limits, got, known, test.want, test.known)
		}
	}
}
