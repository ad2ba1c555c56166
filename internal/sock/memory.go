package sock

import (
	"encoding/binary"
	"hash/fnv"

	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Memory is what observation knows of one connection and the kernel does not:
// what must outlive a restart.
type Memory struct {
	Key             // the cookie is never 0
	ID       uint64 // ID.Sum of its identity
	State    ssfilter.State
	Entered  Instant // in State since then at the latest
	Quiet    Instant // no progress since then at the latest
	Queued   Instant // something to send since then at the latest; 0: nothing
	Acked    uint64  // counters of the last answer, to know the connection again by
	Received uint64
	SegsIn   uint32
	Backlog  bool // it was last seen in an accept queue: no time counts before it is accepted
	Exact    bool // a source saw it enter State at Entered; not on disk
	Accepted bool // it was seen in one before: no time before Entered and Quiet counts, whatever the kernel says
}

// Group is what is known of one group of a rule's sockets: what must outlive a
// restart.
type Group struct {
	Key GroupKey // what its sockets have in common
	GroupFacts
}

// GroupFacts is what of a Group has the same size for each.
type GroupFacts struct {
	Rule     uint64  // RuleSum of the rule's fingerprint
	Holding  Instant // the rule's condition has held since; 0: it does not
	Firing   Instant // the group has fired since; 0: it does not
	Ended    Instant // it fired until then, and an alert about it goes on; 0: none does
	Known    Instant // all that was so at that instant
	Fresh    uint64  // sockets first seen in the five minutes before that, where the rule asks for growth
	Acted    Instant // when something was last done about the group as a whole; 0: never, or too long ago
	ActsFrom Instant // from when the delays of what is done while it fires count
	ActsDone uint16  // what was done of it, a bit for each of the rule's actions on groups
}

// GroupKey is a group's properties, in a form that means the same in every run.
type GroupKey string

// Spent is what is used up of a rule's limit, or of what else bounds it.
type Spent struct {
	Rule    uint64 // RuleSum of its name
	N       uint32 // actions, all of one instant
	At      Instant
	Expires Instant // when it counts against no window any more
	Share   bool    // it is of a share of live connections: Rule is the number of that
	Own     bool    // it counts in the limit of the rule alone, and not in that of all
}

// RuleStop says that a rule has stopped itself: its acts did harm.
type RuleStop struct {
	Rule, Sum string // its name, and what it said
	Reason    string // one word
	PID       int    // of the program that it did harm to; 0: none is known
	Comm      string
	Since     Instant // before this boot where it is below 0
}

// Sum is a fingerprint of what identifies a connection beside its cookie, the
// same in every run.
func (id *ID) Sum() uint64 {
	h := fnv.New64a()
	var iface [4]byte
	binary.LittleEndian.PutUint32(iface[:], id.Iface)
	for _, field := range [...][]byte{{id.Family}, id.SPort[:], id.DPort[:], id.Src[:], id.Dst[:], iface[:]} {
		h.Write(field)
	}
	return h.Sum64()
}

// RuleSum is what a rule is called where names of any length have no room.
func RuleSum(name string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(name))
	return h.Sum64()
}
