package node

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/sockdog/sockdog/internal/counters"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/source/events"
	"github.com/sockdog/sockdog/internal/source/patient"
	"github.com/sockdog/sockdog/internal/source/sockdiag"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Scanner reads the socket tables of all namespaces. It is for one thread.
type Scanner struct {
	source      *Source
	lookup      *patient.Lookup // nil: no table was read yet
	dumper      dumper
	elsewhere   time.Duration       // CPU time of the last scan, on that thread
	locked      map[*namespace]bool // left out of the present scan
	inUserSpace string
	empty       map[emptyScan]*before
	answers     []sock.Answer
	ids         []sock.ID
	socket      sock.Socket
}

// emptyScan is a question to a namespace that no socket answered.
type emptyScan struct {
	of     *namespace
	states ssfilter.StateSet
	where  string
}

// before is what a namespace counted before such a scan.
type before struct {
	sock.Counters
	skips int // since
}

const (
	// mostSkips bounds how often the counters are believed in a row: some changes they
	// do not show.
	mostSkips = 10
	// mostAsked is for how many sockets of one namespace the kernel is asked one by one:
	// for more, reading all is cheaper.
	mostAsked = 2048
	// mostRefreshed bounds how many of the answers that have grown old are renewed in one
	// scan.
	mostRefreshed = 256
)

// OpenScanner returns a scanner for the calling thread.
func (s *Source) OpenScanner() (*Scanner, error) {
	_ = sockdiag.RaiseNetAdmin() // who probes the host tells what follows from an error
	return &Scanner{source: s, empty: make(map[emptyScan]*before)}, nil
}

// Close ends the scanner.
func (x *Scanner) Close() error {
	if x.lookup != nil {
		x.lookup.Close()
	}
	x.dumper.end()
	return nil
}

// Elsewhere returns the CPU time that the last scan took on other threads than the caller's.
func (x *Scanner) Elsewhere() time.Duration { return x.elsewhere }

// InUserSpace says why the last scan was not left to the kernel as a whole; "" if it was.
func (x *Scanner) InUserSpace() string { return x.inUserSpace }

// Scan calls each for every socket that the query means, as sockdiag.Conn.Scan does, in all
// namespaces. A namespace that is given up meanwhile has no sockets. One of many whose scan
// does not end is left out, but for what the table tells of it.
//
// What the table tells is shown as the kernel answered when it was last asked for that
// socket, which may be before the scan began.
func (x *Scanner) Scan(q sock.Query, each func(s *sock.Socket, got sock.Instant)) error {
	x.inUserSpace, x.elsewhere = "", 0
	x.source.awaitTable(&q)
	x.locked = x.source.locked()
	fast := x.source.tells(&q)
	var shown map[*namespace]bool // whose sockets in these states the table has told
	if fast != 0 {
		var err error
		// After an error nothing was shown: the table is read before.
		if shown, err = x.scanTable(&q, fast, each); err != nil {
			x.source.fail(err)
		}
	}
	all := x.source.namespaces()
	where := ""
	if q.Where != nil && x.source.config.All {
		where = q.Where.String()
	}
	for _, n := range all {
		states := q.States
		if shown[n] {
			states &^= fast
		}
		if states == 0 || x.locked[n] {
			continue
		}
		key := emptyScan{n, states, where}
		if x.source.config.All && x.spared(key, &q) {
			continue
		}
		if err := x.scanOne(key, sock.Query{States: states, Where: q.Where}, each); err != nil {
			return err
		}
	}
	x.forget(all)
	return nil
}

// tableStates are those of which the table tells every socket. In FIN_WAIT2 there are
// minisockets too.
var tableStates = events.Covered &^ ssfilter.Of(ssfilter.FinWait2)

// tells returns the states of the query for which the table is enough.
func (s *Source) tells(q *sock.Query) ssfilter.StateSet {
	if q.Where != nil && ssfilter.Asks(q.Where).Autobound {
		return 0 // that the kernel tells by bytecode only
	}
	return ssfilter.StateSet(s.follower.covered.Load()) & tableStates & q.States
}

// Countable returns the states whose sockets a scan counts for little. In many namespaces that
// is what the table tells: to read all sockets of each would take seconds.
func (s *Source) Countable() ssfilter.StateSet {
	if !s.config.All {
		return ssfilter.AllStates
	}
	return ssfilter.StateSet(s.follower.covered.Load()) & tableStates
}

// scanOne scans one namespace by sock_diag.
func (x *Scanner) scanOne(key emptyScan, q sock.Query, each func(s *sock.Socket, got sock.Instant)) error {
	n, found, counted := key.of, 0, &before{}
	if x.source.config.All {
		// Counters that cannot be read spare nothing.
		_ = n.counters(func(r *counters.Reader) (err error) { counted.Counters, err = r.Read(); return err })
	}
	table := x.source.table()
	err := x.dump(n, q, func(s *sock.Socket, got sock.Instant) {
		found++
		x.source.tellEntry(table, s, got)
		if s.Entered != 0 { // a later scan, by the table, shows nothing older
			x.source.cache.renew(s, got)
		}
		n.name(s)
		each(s, got)
	})
	switch {
	case isLeft(err):
		return nil
	case err != nil:
		return fmt.Errorf("network namespace %d: %w", n.Inode, err)
	}
	delete(x.empty, key)
	if found == 0 && !x.locked[n] {
		x.empty[key] = counted
	}
	return nil
}

// dump scans one namespace by sock_diag: one of many with patience.
func (x *Scanner) dump(n *namespace, q sock.Query, each func(*sock.Socket, sock.Instant)) error {
	if !x.source.config.All || len(x.locked) >= mostLocked {
		conn, err := n.conn()
		if err != nil {
			return err
		}
		defer n.giveBack(conn)
		err = conn.Scan(q, each)
		x.inUserSpace = cmp.Or(conn.InUserSpace(), x.inUserSpace)
		return err
	}
	d, err := x.dumper.scan(n, q, each, x.source.leave)
	if errors.Is(err, errLocked) {
		x.locked[n] = true
		return nil
	}
	x.inUserSpace = cmp.Or(d.inUserSpace, x.inUserSpace)
	x.elsewhere += d.cost
	return err
}

// spared reports whether a scan of the namespace could find nothing, by its counters: there
// is no socket at all, or there was none that was asked for and no segment has come since.
func (x *Scanner) spared(key emptyScan, q *sock.Query) (spared bool) {
	err := key.of.counters(func(r *counters.Reader) error {
		now, err := r.ReadTimeWait()
		if err != nil {
			return err
		}
		if now.HasTimeWait && now.TimeWait == 0 && !key.states.Has(ssfilter.BoundInactive) {
			inUse, known, err := r.InUse()
			if spared = key.states == 1<<ssfilter.TimeWait || err == nil && known && inUse == 0; spared {
				return nil
			}
		}
		was := x.empty[key]
		if was == nil || was.skips >= mostSkips || key.states&sock.ByProgram != 0 || q.Where != nil && ssfilter.Asks(q.Where).Volatile {
			return nil
		}
		if now, err = r.Read(); err == nil && now.Still(&was.Counters) {
			was.skips++
			spared = true
		}
		return err
	})
	return spared || isLeft(err)
}

// forget forgets what scans found in namespaces that are not there any more, and what
// nobody asks any more.
func (x *Scanner) forget(all []*namespace) {
	if len(x.empty) <= 8*len(all) {
		return
	}
	clear(x.empty)
}
