// Package why says who leaks sockets, and why: from what was read of a host it makes
// findings by owner and peer, each with what it means, what to look for in the program, and
// a rule that would heal it. It takes values and returns values.
package why

import (
	"strings"
	"time"

	"github.com/sockdog/sockdog/internal/engine/track"
	"github.com/sockdog/sockdog/internal/sock"
)

// Input is what was read of a host.
type Input struct {
	Now    time.Time
	Latest Reading

	// Before is what was read when the watch began; nil: nothing was watched.
	Before  *Reading
	Watched time.Duration // from then to the latest reading

	Whole   bool // no filter left anything out
	Several bool // network namespaces are told apart
	// Elsewhere is that a running sockdog watches all network namespaces, of which one was looked into.
	Elsewhere bool

	Kills []Kills // of the rules of a running sockdog

	Unseen, Cure string // whose sockets have no known holder, and what to do; empty: all have
	Left         []string
}

// Reading is what was read at one instant.
type Reading struct {
	Sockets   []Socket
	Listening []sock.Socket
	MPTCP     []Socket                 // connections of Multipath TCP, whose age nobody knows
	HasMPTCP  bool                     // these could be read: their subflows tell nothing more
	Holders   map[uint32][]sock.Holder // by inode
	Exact     bool                     // those are all, though there are Unseen
	Settled   map[*sock.Owner]bool     // and else where holders belong that are all
	Processes map[int]Process          // by PID
	Overflows map[uint32]uint64        // of accept queues, by network namespace, where they can be read
}

// Kills is what became of the descriptors of sockets that a rule has killed, ten seconds later.
type Kills struct {
	Rule                  string
	Closed, Open, Unknown uint64 // by their programs, not by them, and nobody can tell
}

// Socket is a socket, and how old it is.
type Socket struct {
	sock.Socket
	track.Age
}

// Process is what is known of one process beside the sockets that it holds.
type Process struct {
	Holder sock.Holder
	Netns  uint32 // 0: not known

	Known bool // of descriptors:
	Used  int
	Limit uint64 // 0: none
	Dead  int    // sockets that no table has any more

	Accepting *int // threads in accept(2), of one that listens; nil: not known
}

// Finding is what sockets of one owner have in common.
type Finding struct {
	*cause
	Key
	Holders []sock.Holder
	Count   int

	Oldest, Newest time.Duration
	Known, Exact   bool // of Oldest: of any socket, of every one

	Rate    float64 // sockets more a minute, where Rated
	Rated   bool
	Peers   int // of a server: how many addresses
	Closed  int // of those in an accept queue: how many the client has closed already
	Process Process
	LimitIn time.Duration // until the limit of descriptors is reached; 0: not known, or never

	Queue *Queue // of a listening socket

	uid    uint32
	cgroup string
}

// Queue is how full an accept queue is.
type Queue struct {
	Length, Limit uint32
	Accepting     *int    // threads in accept(2), of all processes that hold it; nil: not known of each
	Overflows     *uint64 // of all queues of its network namespace, since that began; nil: not known
	Minute        float64 // overflows a minute, where watched
	Watched       bool
}

// Key tells findings from each other.
type Key struct {
	Cause     string
	Owner     string // its processes, or why there is none
	Netns     uint32
	NetnsName string
	Server    bool
	Peer      string // of a client: its peer; of a server: its own port
	Address   string // of the peer, without its zone
	Port      uint16
	MPTCP     bool
}

// Report is what was found.
type Report struct {
	Findings []*Finding
	input    *Input
	looked   int
	unowned  int             // sockets of findings whose holder is not known
	names    map[string]bool // of rules that were proposed
}

// Unowned returns how many sockets have an owner that could not be seen.
func (r *Report) Unowned() int { return r.unowned }

// Explain finds out who leaks.
func Explain(in *Input) *Report {
	r := &Report{input: in, looked: len(in.Latest.Sockets)}
	moved := moved(in)
	found := collect(in, &in.Latest, moved)
	var before map[Key]*Finding
	if in.Before != nil {
		before = collect(in, in.Before, moved)
	}
	for key, f := range found {
		f.rate(in, before[key])
		if f.shown(in) {
			r.Findings = append(r.Findings, f)
			if f.Owner == ownerUnseen {
				r.unowned += f.Count
			}
		}
	}
	limits(in, r.Findings)
	sortFindings(r.Findings)
	return r
}

// moved are the connections on which the peer acknowledged something during the watch: they
// are in use, whatever a single look at them says.
func moved(in *Input) map[sock.Key]bool {
	if in.Before == nil {
		return nil
	}
	acked := make(map[sock.Key]uint64, len(in.Before.Sockets))
	for i := range in.Before.Sockets {
		s := &in.Before.Sockets[i]
		acked[s.ID.Key()] = s.Info.BytesAcked
	}
	all := make(map[sock.Key]bool)
	for i := range in.Latest.Sockets {
		s := &in.Latest.Sockets[i]
		if was, known := acked[s.ID.Key()]; known && s.Info.BytesAcked > was {
			all[s.ID.Key()] = true
		}
	}
	return all
}

// ownerOf names the processes that hold a socket.
func ownerOf(holders []sock.Holder) string {
	var b strings.Builder
	for i, h := range holders {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(identity(h))
	}
	return b.String()
}
