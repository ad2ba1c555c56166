package daemon_test

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/daemon/daemontest"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/journal"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// Without the capability the kernel says EPERM, always: the watchdog says so
// once, goes on watching, and tells the kernel nothing any more.
func TestNoCapability(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.options.Source = daemontest.SourceOf(func() (kernel, error) {
		k, err := w.openKernel()
		if err == nil {
			err = dropNetAdmin()
		}
		return k, err
	}, w.openCounters)
	w.refused(unix.EPERM)
}

// dropNetAdmin takes CAP_NET_ADMIN from the calling thread.
func dropNetAdmin() error {
	self := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&self, &sets[0]); err != nil {
		return err
	}
	sets[0].Effective &^= 1 << unix.CAP_NET_ADMIN
	return unix.Capset(&self, &sets[0])
}

// So does a kernel that was built without CONFIG_INET_DIAG_DESTROY, with another errno.
func TestKernelCannotDestroy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.destroy = func(kernel, sock.ID) error { return unix.EOPNOTSUPP }
	w.refused(unix.EOPNOTSUPP)
}

// refused checks what the watchdog makes of a kernel that refuses each destroy.
func (w *world) refused(errno unix.Errno) {
	w.Helper()
	l := w.listen(nstest.V4, 5432)
	w.watch(often + leaked)
	first := w.leak(l)
	failed := w.result(first.cookie, journal.Failed)
	if failed.Level != "ERROR" {
		w.Errorf("the failure is logged as %s, want ERROR", failed.Level)
	}
	w.result(first.cookie, journal.Would) // it goes on watching
	for _, s := range []stuck{w.leak(l), w.leak(l), w.leak(l)} {
		w.result(s.cookie, journal.Would)
	}
	if n := w.count("the action is switched off"); n != 1 {
		w.Errorf("%d lines say that kill is switched off, want 1:\n%s", n, w.log)
	}
	if n := w.kills(); n != 1 {
		w.Errorf("the kernel was told %d times to destroy, want once", n)
	}
	if told := w.lines(func(l line) bool { return l.Cookie == first.cookie }); len(told) != 2 {
		w.Errorf("%d lines about the first socket, want its failure and what would be done: %+v", len(told), told)
	}
	if got := w.state(first.Socket); got != unix.BPF_TCP_CLOSE_WAIT {
		w.Errorf("the socket is in TCP state %d, want CLOSE_WAIT", got)
	}
}

// What is known not to be possible is not tried.
func TestKnownUnable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.options.Capabilities = match.Capabilities{rules.Destroy: errors.New("kill is not permitted"), rules.Descriptor: errors.New("nor is this")}
	l := w.listen(nstest.V4, 5432)
	w.watch(often + leaked)
	s := w.leak(l)
	would := w.result(s.cookie, journal.Would)
	if want := "close-wait for"; len(would.Reason) == 0 || would.Reason[:len(want)] != want {
		t.Errorf("reason %q, want %q and more", would.Reason, want)
	}
	if n := w.kills(); n != 0 {
		t.Errorf("the kernel was told %d times to destroy, want never", n)
	}
}

// A scan that fails midway teaches nothing, be it that what it showed was wrong:
// what is tracked stays so, and what is due dies on time.
func TestScanFailsMidway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var broken atomic.Bool
	var good, failed atomic.Int32
	w.scan = func(k kernel, q sock.Query, each func(*sock.Socket, sock.Instant)) error {
		if !broken.Load() {
			defer good.Add(1)
			return k.Scan(q, each)
		}
		defer failed.Add(1)
		shown := 0
		err := k.Scan(q, func(s *sock.Socket, got sock.Instant) {
			if shown++; shown > 2 {
				return
			}
			old := *s
			old.Info.LastAckRecv, old.Info.LastDataRecv = time.Hour, time.Hour
			each(&old, got)
		})
		return errors.Join(err, errors.New("the dump was cut short"))
	}
	l := w.listen(nstest.V4, 5432)
	w.watch(often + leaked)
	var known []stuck
	for range 4 {
		// Of sockets with keepalives only observation knows the age.
		p := w.pair(l)
		check(t, p.Client.Keepalive())
		check(t, p.Server.Keepalive())
		known = append(known, w.hangUp(p.Server, p.Client.CloseWrite))
	}
	scans := good.Load()
	w.until("look at them", func() bool { return good.Load() > scans+1 })
	broken.Store(true)
	w.until("failed look", func() bool { return failed.Load() > 0 })
	unseen := w.leak(l)
	for _, s := range known {
		w.dies(s, bound)
	}
	w.until("further failed looks", func() bool { return failed.Load() > 3 })
	w.lives(unseen, unix.BPF_TCP_CLOSE_WAIT)
	if n := w.count("socket table scan failed; retrying"); n != 1 {
		t.Errorf("%d lines say that scans fail, want 1", n)
	}
	broken.Store(false)
	w.dies(unseen, bound)
	w.await("the word that scans succeed", func(l line) bool { return l.Msg == "socket table scans succeed again" })
	if n := w.count("socket table scans succeed again"); n != 1 {
		t.Errorf("%d lines say that scans succeed again, want 1", n)
	}
}

// A walk of the hash table can miss a socket that is there all the while.
func TestMissingFromScan(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var missing atomic.Uint64
	var missed atomic.Int32
	w.scan = func(k kernel, q sock.Query, each func(*sock.Socket, sock.Instant)) error {
		return k.Scan(q, func(s *sock.Socket, got sock.Instant) {
			if s.ID.Cookie == missing.Load() {
				missed.Add(1)
				return
			}
			each(s, got)
		})
	}
	p := w.pair(w.listen(nstest.V4, 5432))
	check(t, p.Server.Keepalive())
	s := w.hangUp(p.Server, p.Client.CloseWrite)
	w.watch(often + leaked)
	missing.Store(s.cookie)
	w.dies(s, bound)
	if missed.Load() == 0 {
		t.Error("no look missed the socket: the test shows nothing")
	}
}

// Between the last question and the kill a socket may end, and another may take
// its addresses.
func TestGoneAtTheLastMoment(t *testing.T) {
	t.Parallel()
	for name, again := range map[string]bool{"closed": false, "addresses reused": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			l := w.listen(nstest.V4, 5432)
			p := w.pair(l)
			from, to := must(p.Client.Local())(t), must(l.Local())(t)
			var next nstest.Socket
			w.destroy = func(k kernel, id sock.ID) error {
				err := p.Client.Abort()
				if again {
					var e error
					next, e = nstest.New(nstest.V4, unix.IPPROTO_TCP)
					err = errors.Join(err, e, next.Bind(from), next.Connect(to))
				}
				if err != nil {
					return err
				}
				return k.Destroy(id)
			}
			w.watch(often + leaked)
			s := w.hangUp(p.Client, p.Server.Close)
			w.result(s.cookie, journal.Gone)
			if again {
				w.closeLater(next)
				if got := w.state(next); got != unix.BPF_TCP_ESTABLISHED {
					t.Errorf("the connection that took the addresses is in TCP state %d, want established", got)
				}
			}
			if failed := w.lines(func(l line) bool { return l.Level == "ERROR" || l.Level == "WARN" }); len(failed) > 0 {
				t.Errorf("%+v; that a socket has ended is no failure", failed)
			}
		})
	}
}

// A kernel that says it has destroyed a socket, and has not, is told once.
func TestKernelDoesNot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.destroy = func(kernel, sock.ID) error { return nil }
	l := w.listen(nstest.V4, 5432)
	w.watch(often + leaked)
	s := w.leak(l)
	w.result(s.cookie, journal.Unconfirmed)
	w.result(w.leak(l).cookie, journal.Unconfirmed) // a whole bound later
	if told := w.killed(s.cookie); len(told) != 1 {
		t.Errorf("the kernel was told %d times, want once", len(told))
	}
}

// Where the kernel's answer is lost, only a question tells what it did.
func TestAnswerLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.destroy = func(k kernel, id sock.ID) error {
		return errors.Join(sock.ErrUnconfirmed, k.Destroy(id), errors.New("no answer"))
	}
	l := w.listen(nstest.V4, 5432)
	w.watch(often + leaked)
	w.dies(w.leak(l), bound)
}
