package engine

import (
	"slices"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/engine/track"
	"github.com/sockdog/sockdog/internal/sock"
)

// tracked is a connection that is kept in mind: what was observed of it, and what
// is pending.
type tracked struct {
	track.Connection
	got   sock.Instant // of the last answer
	plain bool         // the kernel alone knows its times as well, and will at a later scan

	of    match.ClassSet // classes of the rules it may match
	scan  uint64         // number of the scan that last saw it
	phase phase
	alarm seat         // where phase is waiting: when to attend to it; in no queue: when a scan sees it
	goal  sock.Instant // what for: when to ask for it

	marks   []mark      // what was done or said, each at most once per connection
	held    *Action     // a limit holds this back
	line    seat        // among those that the limit holds back
	turn    bool        // the limit let it go on: it is asked for afresh
	would   bool        // a dry run said so: a real one would have taken it, and no later rule gets it
	blocked bool        // due, and something that may change stands against it
	aged    bool        // a rule about groups asks for its age, of which the kernel alone knows less
	spared  []hindrance // what kept rules from acting on it, each told once

	order    sock.Instant // among those due at the same instant, the lowest comes first
	rule     *ruleState   // of the act held back or under way
	action   int
	failures int          // of acts on it
	again    sock.Instant // after a failure: no act before
	act      *Action      // the kernel was told; to be confirmed
	unsure   bool         // its answer to that was lost
	survived bool         // it was told, and still shows the socket: nothing more is done

	holders  *subject.Holders
	wanted   bool         // its holders are being looked for
	notOwn   bool         // the watchdog does not hold it
	foreseen bool         // it was known before it fell due
	ahead    bool         // and well before that
	patience sock.Instant // until when to wait for that; 0: not waited for yet

	stored stored // what is on disk of it
	behind bool   // the disk does not have what is known by now
}

type phase uint8

const (
	waiting phase = iota // for its alarm, for a scan, or for its turn under a limit
	asked                // the kernel was asked for it
	acted                // an act on it is under way
)

type mark struct {
	rule   *ruleState
	action uint32
	open   bool // it was held back, or failed: still to be done
}

func newTracked(c track.Connection) *tracked {
	t := &tracked{Connection: c}
	t.alarm.track, t.line.track = t, t
	return t
}

// marked returns what was done or said about an action of a rule.
func (t *tracked) marked(rule *ruleState, action int) *mark {
	for i := range t.marks {
		if t.marks[i].rule == rule && int(t.marks[i].action) == action {
			return &t.marks[i]
		}
	}
	return nil
}

// mark notes that an action of a rule was done.
func (t *tracked) mark(rule *ruleState, action int) {
	if m := t.marked(rule, action); m != nil {
		m.open = false
		return
	}
	t.marks = append(t.marks, mark{rule: rule, action: uint32(action)})
}

// unmark notes that it is as if the action of a rule had not been done.
func (t *tracked) unmark(rule *ruleState, action int) {
	t.marks = slices.DeleteFunc(t.marks, func(m mark) bool { return m.rule == rule && int(m.action) == action })
}

// reopen lets an action of a rule be done again.
func (t *tracked) reopen(rule *ruleState, action int) {
	if m := t.marked(rule, action); m != nil {
		m.open = true
	}
}
