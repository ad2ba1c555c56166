package node

import (
	"errors"
	"log/slog"
	"runtime"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/source/sockdiag"
)

// dumpPatience is how long the scan of one namespace of many is waited for, again with each
// sockets that it shows. The kernel waits for the lock of every socket that it tells of
// (tcp_diag_get_info), and a program can hold that for as long as it likes.
const dumpPatience = 5 * time.Second

// errLocked is the error where a namespace cannot be scanned.
var errLocked = errors.New("a program holds the lock of a socket, for which the kernel waits")

// dumper scans namespaces on a thread of its own. Where a scan does not end, the thread is
// left behind: one pod must not keep the sockets of the others from being found.
type dumper chan *dump

// dump is a scan of one namespace.
type dump struct {
	of    *namespace
	query sock.Query
	full  chan []dumped // closed at the end
	empty chan []dumped
	left  chan struct{} // closed when nobody waits for it any more

	// Read once it has ended:
	inUserSpace string
	cost        time.Duration
	err         error
}

type dumped struct {
	sock.Socket
	got sock.Instant
}

// chunk is how many sockets are handed over at once.
const chunk = 64

func newDumper() dumper {
	d := make(dumper, 1)
	go func() {
		runtime.LockOSThread() // whose capabilities are raised
		_ = sockdiag.RaiseNetAdmin()
		for x := range d {
			x.run()
			close(x.full)
		}
	}()
	return d
}

// scan calls each for the sockets of a namespace. Before errLocked it calls leave, and what
// that returns once the scan has ended after all; then, some were shown.
func (d *dumper) scan(n *namespace, q sock.Query, each func(*sock.Socket, sock.Instant), leave func(*namespace) (ended func())) (*dump, error) {
	if *d == nil {
		*d = newDumper()
	}
	x := &dump{of: n, query: q, full: make(chan []dumped), empty: make(chan []dumped, 2), left: make(chan struct{})}
	x.empty <- nil
	x.empty <- nil
	*d <- x
	patience := time.NewTimer(dumpPatience)
	defer patience.Stop()
	for {
		select {
		case some, more := <-x.full:
			if !more {
				return x, x.err
			}
			for i := range some {
				each(&some[i].Socket, some[i].got)
			}
			x.empty <- some[:0]
			patience.Reset(dumpPatience)
		case <-patience.C:
			close(x.left)
			d.end()
			ended := leave(n)
			go func() {
				for range x.full { // until it is closed
				}
				ended()
			}()
			return &dump{}, errLocked
		}
	}
}

// end has the thread end once it can.
func (d *dumper) end() {
	if *d != nil {
		close(*d)
		*d = nil
	}
}

func (x *dump) run() {
	began := sock.ThreadTime()
	var conn *sockdiag.Conn
	if conn, x.err = x.of.conn(); x.err == nil {
		var some []dumped
		x.err = conn.Scan(x.query, func(s *sock.Socket, got sock.Instant) {
			if some == nil {
				select {
				case some = <-x.empty:
				case <-x.left:
					return
				}
			}
			if some = append(some, dumped{*s, got}); len(some) == chunk {
				x.hand(some)
				some = nil
			}
		})
		x.inUserSpace = conn.InUserSpace()
		x.of.giveBack(conn)
		if len(some) > 0 {
			x.hand(some)
		}
	}
	x.cost = sock.ThreadTime() - began
}

// hand hands sockets over, if there is still somebody who takes them.
func (x *dump) hand(some []dumped) {
	select {
	case x.full <- some:
	case <-x.left:
	}
}

// mostLocked bounds the threads that wait in the kernel for the lock of a socket. Beyond that,
// scans wait themselves.
const mostLocked = 32

// leave leaves a namespace out of scans, until the one that waits in the kernel has ended.
func (s *Source) leave(n *namespace) (ended func()) {
	n.locked.Store(true)
	s.say(slog.LevelWarn, "scan of a network namespace does not end; it is left out", append(n.label(), slog.String("reason", errLocked.Error()))...)
	return func() {
		n.locked.Store(false)
		s.say(slog.LevelInfo, "scan of the network namespace has ended; it is scanned again", n.label()...)
	}
}

// locked are the namespaces that scans leave out.
func (s *Source) locked() map[*namespace]bool {
	all := make(map[*namespace]bool)
	for _, n := range s.namespaces() {
		if n.locked.Load() {
			all[n] = true
		}
	}
	return all
}
