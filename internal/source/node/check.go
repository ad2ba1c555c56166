package node

import (
	"log/slog"
	"runtime"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/source/events"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

const (
	// checkEvery is how far apart two checks are at least, and checkShare is the part of a
	// processor that they may cost.
	checkEvery = time.Minute
	checkShare = 1e-4
)

// checks are scans of one namespace after the other by sock_diag, which find what the table
// lacks: another program may have taken a connection out of its sight.
type checks struct {
	last  *namespace
	began sock.Instant  // the last one; at first, when the source was opened
	cost  time.Duration // of it
	ended chan struct{} // closed; nil: none has begun
}

// checkAfter begins the next check if the last one is long enough ago.
func (s *Source) checkAfter(now sock.Instant) {
	c := &s.checks
	if now.Sub(c.began) < checkEvery || s.follower.covered.Load() == 0 {
		return
	}
	if c.ended != nil {
		select {
		case <-c.ended:
		default:
			return // it waits in the kernel for the lock of a socket
		}
	}
	n := s.nextFollowed(c.last)
	if n == nil || now.Sub(c.began) < spacing(c.cost, checkShare) {
		return
	}
	c.last, c.began, c.ended = n, now, make(chan struct{})
	go func(ended chan struct{}) {
		defer close(ended)
		runtime.LockOSThread() // the cost is counted by thread, which ends with the goroutine
		began := sock.ThreadTime()
		missed, err := s.check(n)
		c.cost = sock.ThreadTime() - began // read once ended is closed
		if missed > 0 && err == nil {
			s.missed(n, missed)
		}
	}(c.ended)
}

// nextFollowed returns a followed namespace after the last one, by inode.
func (s *Source) nextFollowed(last *namespace) (next *namespace) {
	var first *namespace
	for _, n := range s.namespaces() {
		if !s.follows(n) {
			continue
		}
		if first == nil || n.Inode < first.Inode {
			first = n
		}
		if last != nil && n.Inode > last.Inode && (next == nil || n.Inode < next.Inode) {
			next = n
		}
	}
	if next == nil {
		return first
	}
	return next
}

// mostChecked bounds how many sockets one check looks at closely.
const mostChecked = 1024

// check counts the sockets of a namespace that the table lacks.
func (s *Source) check(n *namespace) (missed int, err error) {
	table := s.table()
	states := ssfilter.StateSet(s.follower.covered.Load()) & tableStates
	if table == nil || states == 0 {
		return 0, errNoTable
	}
	conn, err := n.conn()
	if isLeft(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer n.giveBack(conn)
	var lacking []sock.ID
	began := s.config.Now()
	err = conn.Scan(sock.Query{States: states}, func(k *sock.Socket, _ sock.Instant) {
		if len(lacking) < mostChecked && lacks(table, k, began) {
			lacking = append(lacking, k.ID)
		}
	})
	// A socket is in the table before it is in the state. One that leaves it between answer
	// and table was not missed, and seems to be twice in a row hardly ever.
	for round := 0; round < 2 && err == nil && len(lacking) > 0; round++ {
		var answers []sock.Answer
		answers, err = conn.Lookup(lacking, nil)
		lacking = lacking[:0]
		for i := range answers {
			a := &answers[i]
			if a.Err == nil && !a.Gone && states.Has(a.Socket.State) && lacks(table, &a.Socket, a.Sent) {
				lacking = append(lacking, a.Socket.ID)
			}
		}
	}
	return len(lacking), err
}

// lacks reports whether the table does not have a socket, or has it in another state since
// before the kernel was asked.
func lacks(table *events.Table, k *sock.Socket, asked sock.Instant) bool {
	e, ok, err := table.Get(k.ID.Cookie)
	return err == nil && (!ok || e.State != k.State && e.Entered <= asked)
}

// missed says that the table lacked sockets, and has it follow all connections of the
// namespace anew.
func (s *Source) missed(n *namespace, missed int) {
	s.facts.Lock()
	first := s.facts.missed == 0
	s.facts.missed += uint64(missed)
	s.facts.Unlock()
	if first {
		s.say(slog.LevelWarn, "events have missed sockets, which a scan by sock_diag found; the connections are followed anew",
			append(n.label(), slog.Int("sockets", missed))...)
	}
	n.tried.Store(0)
	n.followed.Store(0)
	s.kick()
}
