package counters

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/netns"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// TestReader counts real sockets of both families in a namespace that has no
// others.
func TestReader(t *testing.T) {
	nstest.Isolate(t)
	r, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	read := func() sock.Counters {
		t.Helper()
		c, err := r.Read()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}

	before := read()
	if want := (sock.Counters{HasTimeWait: true, HasInSegs: true}); before != want {
		t.Fatalf("a fresh namespace counts %+v, want %+v", before, want)
	}
	if again := read(); again != before {
		t.Errorf("nothing happened, and the counters went from %+v to %+v", before, again)
	}

	for i, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		client, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		after := read()
		// SYN, SYN+ACK and the ACK of it.
		if after.InSegs < before.InSegs+3 {
			t.Errorf("%s: a handshake: segments went from %d to %d", address, before.InSegs, after.InSegs)
		}

		client.Close()
		server.Close()
		l.Close()
		want := before
		want.TimeWait = uint64(i + 1) // the client's end
		deadline := time.Now().Add(10 * time.Second)
		for {
			before = read()
			want.InSegs = before.InSegs
			if before == want {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: all closed: %+v, want %+v", address, before, want)
			}
			time.Sleep(time.Millisecond)
		}
	}
}

// TestReaderKeepsItsNamespace: a reader counts where it was opened, not where
// it is read.
func TestReaderKeepsItsNamespace(t *testing.T) {
	nstest.Isolate(t)
	r, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()

	type answer struct {
		inSegs uint64
		err    error
	}
	answers := make(chan answer)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() { // on another thread, so in the test binary's namespace
		c, err := r.Read()
		answers <- answer{c.InSegs, err}
	}()
	// SYN, SYN+ACK and the ACK of it.
	if got := <-answers; got.err != nil || got.inSegs < 3 {
		t.Errorf("after a handshake the reader says %+v, want 3 segments or more", got)
	}
}

func TestReadAllocatesNothing(t *testing.T) {
	r, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	n := testing.AllocsPerRun(100, func() {
		if _, err := r.Read(); err != nil {
			t.Fatal(err)
		}
	})
	if n != 0 {
		t.Errorf("Read allocates %v times, want none", n)
	}
}

func BenchmarkRead(b *testing.B) {
	r, err := Open()
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Read(); err != nil {
			b.Fatal(err)
		}
	}
}

// TestInUse counts the full sockets of both families, listeners among them, and no
// minisocket.
func TestInUse(t *testing.T) {
	nstest.Isolate(t)
	r, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	want := func(n uint64, what string) {
		t.Helper()
		if got, ok, err := r.InUse(); got != n || !ok || err != nil {
			t.Errorf("%s: %d sockets in use, %v, %v; want %d", what, got, ok, err, n)
		}
	}
	want(0, "a fresh namespace")
	for _, addr := range []netip.Addr{nstest.V4, nstest.V6} {
		l, err := nstest.ListenAt(netip.AddrPortFrom(addr, 5432), unix.IPPROTO_TCP)
		if err != nil {
			t.Fatal(err)
		}
		p, err := nstest.NewPair(l)
		if err != nil {
			t.Fatal(err)
		}
		want(3, addr.String()+": a listener and both ends of a connection")
		for _, s := range []nstest.Socket{p.Client, p.Server} {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
		want(1, addr.String()+": the connection is in TIME_WAIT")
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	want(0, "all is closed")
}

// TestOpenIn reads the counters and ports of another namespace, on threads of the own.
func TestOpenIn(t *testing.T) {
	nstest.Isolate(t)
	there, err := netns.Self()
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	if err := nstest.Sysctl("net.ipv4.ip_local_port_range", "20000 20100"); err != nil {
		t.Fatal(err)
	}
	l, err := nstest.Listen(nstest.V4)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p, err := nstest.NewPair(l)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	read := make(chan error)
	go func() {
		read <- func() error {
			r, err := OpenIn(there)
			if err != nil {
				return err
			}
			defer r.Close()
			n, _, err := r.InUse()
			if err != nil || n != 3 {
				t.Errorf("%d sockets in use, %v, want 3", n, err)
			}
			c, err := r.Read()
			if err != nil || c.InSegs == 0 {
				t.Errorf("counters %+v, %v", c, err)
			}
			p, err := r.Ports()
			if want := (ssfilter.PortRange{First: 20000, Last: 20100}); err != nil || p[there.Inode].Ephemeral != want {
				t.Errorf("ports %v, %v, want %v", p, err, want)
			}
			return nil
		}()
	}()
	if err := <-read; err != nil {
		t.Fatal(err)
	}
}

// BenchmarkReadMany reads one after the other in 100 namespaces, as who watches all of a
// host does.
func BenchmarkReadMany(b *testing.B) {
	nstest.Isolate(b)
	var readers []*Reader
	for range 100 {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			b.Fatal(err)
		}
		r, err := Open()
		if err != nil {
			b.Fatal(err)
		}
		defer r.Close()
		readers = append(readers, r)
	}
	for b.Loop() {
		for _, r := range readers {
			if _, err := r.Read(); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(readers))/1e3, "µs/namespace")
}
