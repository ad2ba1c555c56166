package daemon

import (
	"math"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/status"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

const (
	// stateCountEvery is how often sockets are counted by state, and fewCountEvery how often
	// where few states can be counted: there are many namespaces.
	stateCountEvery = 5 * time.Second
	fewCountEvery   = 15 * time.Second
	// stateCountShare is the part of cpu_budget that this may cost: the scans for the
	// rules have the rest.
	stateCountShare = 0.03
	// rarest bounds how far apart the smallest of budgets puts two.
	rarest = 24 * time.Hour
	// mostSkips bounds how long the counters alone are believed, to a minute.
	mostSkips = 11
)

// oneByOne are the states in which a state count scans for sockets one by one. Those in
// ESTABLISHED and TIME_WAIT are the many: the counters tell them.
const oneByOne ssfilter.StateSet = ssfilter.AllStates &^ (1<<ssfilter.Established | 1<<ssfilter.TimeWait | 1<<ssfilter.BoundInactive)

// stateCounts are the counts of sockets by state, for those who
// watch the watchdog.
type stateCounts struct {
	wanted chan struct{}
	next   sock.Instant // when to count again
}

// stateCount is how many sockets there were in each state.
type stateCount struct {
	sockets status.Sockets // nil: they could not be counted
	at      time.Time
	cost    time.Duration // of CPU
	few     bool          // states could be counted
}

// stateWorker counts the sockets by state when it is asked to.
func (d *watch) stateWorker() (func(struct{}), func(), error) {
	scanner, counts, end, err := d.readers.openReaders()
	var last tableCount
	return func(struct{}) {
		began := sock.ThreadTime()
		states := oneByOne
		if d.readers.Countable != nil {
			states &= d.readers.Countable()
		}
		sockets := last.count(states, scanner, counts)
		select {
		case d.counted <- stateCount{sockets, time.Now(), sock.ThreadTime() - began, states != oneByOne}:
		case <-d.workers.done:
		}
	}, end, err
}

// countStates has the sockets counted where it is time for that, and reports whether it is.
// How things stand is shown with the count.
func (d *watch) countStates(now sock.Instant) bool {
	states := &d.readers.states
	if now < states.next {
		return false
	}
	states.next = math.MaxInt64 // until this one is done
	states.wanted <- struct{}{}
	return true
}

// statesCounted takes in a count, and decides when to make the next.
func (d *watch) statesCounted(c stateCount) {
	s := &d.shown
	s.states.every = spacing(c.cost, d.rules.set.Settings.CPUBudget)
	if c.few {
		s.states.every = max(s.states.every, fewCountEvery)
	}
	d.readers.states.next = d.Now().Add(s.states.every)
	if c.sockets == nil {
		s.states.count(nil, time.Time{})
	} else {
		s.states.count(c.sockets, c.at)
		s.history.Record(c.at, c.sockets)
	}
	d.publish()
}

// spacing returns how long to wait after a state count that took so much CPU.
func spacing(cost time.Duration, budget float64) time.Duration {
	return max(stateCountEvery, time.Duration(min(float64(cost)/(stateCountShare*budget), float64(rarest))))
}

// tableCount is what the last scan of the table found.
type tableCount struct {
	of                ssfilter.StateSet
	states            [16]uint64
	full, minisockets uint64
	before            sock.Counters // nothing, where the scan failed
	skips             int           // since
}

// count counts once the sockets in the states. What could not be read is absent. Where no segment has
// arrived since the last scan, there is none: only what programs close by
// themselves goes unnoticed, and for a minute at most.
func (t *tableCount) count(of ssfilter.StateSet, scanner Scanner, counts Counters) status.Sockets {
	c, err := counts.Read()
	if t.of == of && c.Still(&t.before) && t.skips < mostSkips {
		t.skips++
	} else if !t.scan(of, scanner) {
		return nil // the scans for the rules fail too, and tell
	} else {
		t.before = c
	}
	sockets := make(status.Sockets)
	for _, state := range of.States() {
		sockets[state.String()] = t.states[state]
	}
	// Each is read at another instant than the table: the difference is never
	// negative in truth.
	less := func(a, b uint64) uint64 { return a - min(a, b) }
	if err == nil && c.HasTimeWait {
		sockets[ssfilter.TimeWait.String()] = less(c.TimeWait, t.minisockets)
	}
	if of != oneByOne { // how many of all are in other states is not known
		return sockets
	}
	if inUse, ok, err := counts.InUse(); err == nil && ok {
		sockets[ssfilter.Established.String()] = less(inUse, t.full)
	}
	return sockets
}

// scan counts the sockets of the states of which there are few.
func (t *tableCount) scan(of ssfilter.StateSet, scanner Scanner) bool {
	*t = tableCount{of: of}
	if of == 0 {
		return true
	}
	err := scanner.Scan(sock.Query{States: of, Known: sock.Ever}, func(s *sock.Socket, _ sock.Instant) {
		t.states[int(s.State)%len(t.states)]++
		switch {
		case s.Minisocket():
			t.minisockets++
		case s.State != ssfilter.SynRecv && s.State != ssfilter.Close:
			t.full++
		}
	})
	return err == nil
}
