package engine

import (
	"time"

	"github.com/sockdog/sockdog/internal/engine/limit"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/engine/track"
	"github.com/sockdog/sockdog/internal/sock"
)

// tracked is a connection that is kept in mind: what was observed of it, and what
// is pending. It is 144 bytes, and there may be hundreds of thousands: what only a
// few have stands elsewhere, see attempt, and what many share stands once, see
// record.
type tracked struct {
	track.Packed
	holders   *subject.Holders // nil: not known
	rank      sock.Instant     // in the due queue: when to attend to it
	lead      uint16           // by how much that is before it is to be asked for, see leadUnit
	scope     uint16           // see tracks
	due       uint32           // place in the due queue; 0: in none, a scan sees it
	turn      uint32           // place among those that a limit holds back; 0: in none
	record    uint32           // number of what was done and said about it
	holdersBy uint32           // until when to wait for its holders, see tracked.await
	phase     phase
	of        match.ClassSet // classes of the rules it may match
	flags     flags
}

type phase uint8

const (
	waiting phase = iota // in the due queue, for a scan, or for its turn under a limit
	asked                // the kernel was asked for it
	acted                // an act on it is under way
)

// flags are what is true of a tracked connection.
type flags uint16

const (
	plain       flags = 1 << iota // the kernel alone knows its times as well, and will at a later scan
	stored                        // something of it is on disk
	behind                        // the disk does not have what is known by now
	seen                          // the scan under way showed it, or an answer about it alone came since that was asked for
	newestFirst                   // the action that it falls due for takes the newest first
	granted                       // the limit let it go on: it is asked for afresh
	simulated                     // a dry run said so: a real one would have taken it, and no later rule gets it
	blocked                       // due, and something that may change stands against it
	aged                          // a rule about groups asks for its age, of which the kernel alone knows less
	survived                      // it was acted on, and the kernel still shows it: nothing more is done
	wanted                        // its holders are being looked for
	notOwn                        // the watchdog does not hold it
	foreseen                      // it was known before it fell due
	ahead                         // and well before that
	tried                         // there is an attempt
	copied                        // far: it is tracked as well, beside a scan that takes long
)

func (t *tracked) is(f flags) bool { return t.flags&f != 0 }

func (t *tracked) set(f flags, is bool) {
	t.flags &^= f
	if is {
		t.flags |= f
	}
}

// askAt is when the kernel is to be asked for t, which waits in the due queue.
func (t *tracked) askAt() sock.Instant { return t.rank.Add(time.Duration(t.lead) * leadUnit) }

// leadUnit is what tracked.lead counts in: up to ten minutes.
const leadUnit = 10 * time.Millisecond

// await has the decision on t wait until then, for its holders to be found, unless
// it has waited, and returns until when.
func (t *tracked) await(until, now sock.Instant) sock.Instant {
	const over = 1 // of t.holdersBy: it has waited; 0: not yet; else: milliseconds, which wrap around
	inMs := func(at sock.Instant) uint32 { return uint32(at / sock.Instant(time.Millisecond)) }
	switch t.holdersBy {
	case over:
		return 0
	case 0:
		t.holdersBy = max(inMs(until+sock.Instant(time.Millisecond)-1), over+1)
	}
	left := time.Duration(int32(t.holdersBy-inMs(now))) * time.Millisecond
	if until := (now - now%sock.Instant(time.Millisecond)).Add(left); now < until {
		return until
	}
	t.holdersBy = over
	return 0
}

// attempt is what is known of an act on a connection, while it is under way and
// after.
type attempt struct {
	rule        *ruleState
	action      int
	throttle    limit.Throttle // in which it has its place
	canary      *canary        // that it is a part of; nil: none
	failures    int
	again       sock.Instant // after a failure: no act before
	unconfirmed *Action      // the kernel was told; to be confirmed
	unsure      bool         // its answer to that was lost
	due         sock.Instant // when the socket fell due for the rule
	shut        *shutDown    // by which the socket has left its state; nil: it has not
}

// attempt is the one on t, made where there is none.
func (e *Engine) attempt(t *tracked) *attempt {
	key := e.tracks.key(t)
	a := e.attempts[key]
	if a == nil {
		a = &attempt{}
		e.attempts[key] = a
		t.set(tried, true)
	}
	return a
}

// unconfirmed is the act on t that is to be confirmed, or nil.
func (e *Engine) unconfirmed(t *tracked) *Action {
	if !t.is(tried) {
		return nil
	}
	return e.attempts[e.tracks.key(t)].unconfirmed
}
