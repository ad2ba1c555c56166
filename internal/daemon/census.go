package daemon

import (
	"math"
	"time"

	"github.com/sockdog/sockdog/internal/counters"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/status"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

const (
	// censusEvery is how often sockets are counted by state.
	censusEvery = 5 * time.Second
	// censusShare is the part of cpu_budget that this may cost: the scans for the
	// rules have the rest.
	censusShare = 0.03
	// rarest bounds how far apart the smallest of budgets puts two.
	rarest = 24 * time.Hour
	// mostSkips bounds how long the counters alone are believed, to a minute.
	mostSkips = 11
)

// oneByOne are the states in which a census scans for sockets one by one. Those in
// ESTABLISHED and TIME_WAIT are the many: the counters tell them.
const oneByOne = ssfilter.AllStates &^ (1<<ssfilter.Established | 1<<ssfilter.TimeWait | 1<<ssfilter.BoundInactive)

// counter counts the sockets by state when it is asked to, for those who watch the
// watchdog.
func (d *watch) counter(done <-chan struct{}) (func(), error) {
	kernel, counts, err := d.openReaders()
	if err != nil {
		return nil, err
	}
	return func() {
		defer kernel.Close()
		defer counts.Close()
		var last roll
		for {
			select {
			case <-done:
				return
			case <-d.censuses:
			}
			began := threadTime()
			sockets := last.count(kernel, counts)
			select {
			case d.counted <- census{sockets, time.Now(), threadTime() - began}:
			case <-done:
				return
			}
		}
	}, nil
}

// census is how many sockets there were in each state.
type census struct {
	sockets status.Sockets // nil: they could not be counted
	at      time.Time
	cost    time.Duration // of CPU
}

// takeCensus has the sockets counted when it is time for that.
func (d *watch) takeCensus(now sock.Instant) {
	if now >= d.nextCensus {
		d.nextCensus = math.MaxInt64 // until this one is done
		d.censuses <- struct{}{}
	}
}

// takeIn takes in a census, and decides when to take the next.
func (d *watch) takeIn(c census) {
	b := &d.board
	b.sockets, b.socketsAt = c.sockets, time.Time{} // what was read before is not known to be so any more
	b.socketsEvery = spacing(c.cost, d.budget)
	if c.sockets != nil {
		b.socketsAt = c.at
		b.history.Record(c.at, c.sockets)
		d.publish()
	}
	d.nextCensus = d.Now().Add(b.socketsEvery)
}

// spacing is how long to wait after a census that took so much CPU.
func spacing(cost time.Duration, budget float64) time.Duration {
	return max(censusEvery, time.Duration(min(float64(cost)/(censusShare*budget), float64(rarest))))
}

// roll is what the last walk of the table found.
type roll struct {
	seen              [16]uint64 // by state
	full, minisockets uint64
	inSegs            uint64 // before it
	known             bool   // inSegs was read, and the walk succeeded
	skips             int    // since
}

// count counts once. What could not be read is absent. Where no segment has
// arrived since the last walk, there is none: only what programs close by
// themselves goes unnoticed, and for a minute at most.
func (r *roll) count(kernel Kernel, counts Counters) status.Sockets {
	c, err := counts.Read()
	segments := err == nil && c.Has&counters.HasInSegs != 0
	if segments && r.known && r.inSegs == c.InSegs && r.skips < mostSkips {
		r.skips++
	} else if !r.walk(kernel) {
		return nil // the scans for the rules fail too, and tell
	} else {
		r.inSegs, r.known, r.skips = c.InSegs, segments, 0
	}
	sockets := make(status.Sockets)
	for _, state := range oneByOne.States() {
		sockets[state.String()] = r.seen[state]
	}
	// Each is read at another instant than the table: the difference is never
	// negative in truth.
	less := func(a, b uint64) uint64 { return a - min(a, b) }
	if err == nil && c.Has&counters.HasTimeWait != 0 {
		sockets[ssfilter.TimeWait.String()] = less(c.TimeWait, r.minisockets)
	}
	if inUse, ok, err := counts.InUse(); err == nil && ok {
		sockets[ssfilter.Established.String()] = less(inUse, r.full)
	}
	return sockets
}

// walk counts the sockets of the states of which there are few.
func (r *roll) walk(kernel Kernel) bool {
	*r = roll{}
	err := kernel.Scan(sock.Query{States: oneByOne}, func(s *sock.Socket, _ sock.Instant) {
		r.seen[int(s.State)%len(r.seen)]++
		switch {
		case s.Minisocket():
			r.minisockets++
		case s.State != ssfilter.SynRecv && s.State != ssfilter.Close:
			r.full++
		}
	})
	return err == nil
}
