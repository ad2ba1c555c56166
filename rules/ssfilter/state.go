// Package ssfilter is the filter language of ss(8): the names of TCP states,
// the expressions over addresses and ports, their evaluation in user space and
// their compilation to inet_diag bytecode. It asks the system for nothing but
// the names of services in /etc/services.
package ssfilter

import (
	"fmt"
	"math/bits"
	"strings"
	"time"

	"github.com/sockdog/sockdog/rules/internal/message"
)

// State is a TCP state in the kernel's numbering (include/net/tcp_states.h).
type State uint8

// The states that sock_diag reports.
const (
	Established   State = 1
	SynSent       State = 2
	SynRecv       State = 3
	FinWait1      State = 4
	FinWait2      State = 5
	TimeWait      State = 6
	Close         State = 7
	CloseWait     State = 8
	LastAck       State = 9
	Listening     State = 10
	Closing       State = 11
	NewSynRecv    State = 12 // a request socket; reported as SynRecv
	BoundInactive State = 13
)

var stateNames = [...]string{
	Established:   "established",
	SynSent:       "syn-sent",
	SynRecv:       "syn-recv",
	FinWait1:      "fin-wait-1",
	FinWait2:      "fin-wait-2",
	TimeWait:      "time-wait",
	Close:         "closed",
	CloseWait:     "close-wait",
	LastAck:       "last-ack",
	Listening:     "listening",
	Closing:       "closing",
	NewSynRecv:    "new-syn-recv",
	BoundInactive: "bound-inactive",
}

// String is the name that ss takes after the word "state".
func (s State) String() string {
	if int(s) < len(stateNames) && stateNames[s] != "" {
		return stateNames[s]
	}
	return fmt.Sprintf("state-%d", uint8(s))
}

// StateSet holds bit 1<<s for each State s, as in inet_diag_req_v2.idiag_states.
type StateSet uint32

// Groups of states, as ss names them. All leaves out BoundInactive, which newer
// releases of ss take in: a socket that never connected cannot be stuck, and the
// kernel walks another table to find it.
const (
	AllStates    StateSet = 1<<Established | 1<<SynSent | 1<<SynRecv | 1<<FinWait1 | 1<<FinWait2 | 1<<TimeWait | 1<<Close | 1<<CloseWait | 1<<LastAck | 1<<Listening | 1<<Closing
	Connected             = AllStates &^ (1<<Close | 1<<Listening)
	Synchronized          = Connected &^ (1 << SynSent)
	Bucket       StateSet = 1<<SynRecv | 1<<TimeWait
	Big                   = AllStates &^ Bucket
)

// Classes of states, by what is to be feared from a kill.
const (
	// Unconnected are the states of sockets that have no connection to destroy.
	Unconnected StateSet = 1<<Listening | 1<<Close | 1<<BoundInactive
	// Dead are the states in which no connection is live. Fin-wait-2 is not among them:
	// without an inode such a socket is dead, with one it may receive for hours.
	Dead StateSet = 1<<CloseWait | 1<<TimeWait
)

// named are the states that can be asked for by name.
const named = AllStates | 1<<BoundInactive

// TimeWaitLen is TCP_TIMEWAIT_LEN: how long TIME_WAIT lasts on Linux, whatever
// net.ipv4.tcp_fin_timeout says.
const TimeWaitLen = 60 * time.Second

// Of returns the set of the given states.
func Of(states ...State) StateSet {
	var set StateSet
	for _, s := range states {
		set |= 1 << s
	}
	return set
}

// Has reports whether s is in the set.
func (set StateSet) Has(s State) bool { return set&(1<<s) != 0 }

// States lists the members in the kernel's order.
func (set StateSet) States() []State {
	states := make([]State, 0, bits.OnesCount32(uint32(set)))
	for rest := uint32(set); rest != 0; rest &= rest - 1 {
		states = append(states, State(bits.TrailingZeros32(rest)))
	}
	return states
}

// String joins the names of the members with commas.
func (set StateSet) String() string {
	names := make([]string, 0, 4)
	for _, s := range set.States() {
		names = append(names, s.String())
	}
	return strings.Join(names, ",")
}

// spellings holds what ss, netstat and the kernel call states beside their names,
// and groups of states, in lower case, without hyphens and underscores.
var spellings = map[string]StateSet{
	"estab":        1 << Established,
	"synrcv":       1 << SynRecv,
	"close":        1 << Close,
	"unconnected":  1 << Close,
	"unconn":       1 << Close,
	"listen":       1 << Listening,
	"all":          AllStates,
	"connected":    Connected,
	"synchronized": Synchronized,
	"bucket":       Bucket,
	"big":          Big,
}

// ParseState reads the name of a state, or of a group of states, in any case:
// close-wait, CLOSE_WAIT and TCP_CLOSE_WAIT are one. An unknown name is an error
// that tells the nearest known one. The kernel's NEW_SYN_RECV is no name: such a
// socket is reported in SYN_RECV.
func ParseState(name string) (StateSet, error) {
	squeezed := strings.TrimPrefix(squeeze(name), "tcp")
	if set, ok := spellings[squeezed]; ok {
		return set, nil
	}
	for _, s := range named.States() {
		if squeeze(s.String()) == squeezed {
			return Of(s), nil
		}
	}
	return 0, unknownState(name)
}

// unknownState is an error whose words are put together only where they are read.
type unknownState string

func (name unknownState) Error() string {
	words := stateWords()
	if near := message.Nearest(clip(string(name)), words); len(near) > 0 {
		return fmt.Sprintf("unknown state %s: did you mean %s?", quote(string(name)), strings.Join(near, " or "))
	}
	return fmt.Sprintf("unknown state %s: write one of %s", quote(string(name)), strings.Join(words, ", "))
}

func squeeze(name string) string {
	return strings.ReplaceAll(strings.ReplaceAll(strings.ToLower(name), "-", ""), "_", "")
}

// stateWords are the names to suggest.
func stateWords() []string {
	var words []string
	for _, s := range named.States() {
		words = append(words, s.String())
	}
	return append(words, "all", "connected", "synchronized", "bucket", "big")
}
