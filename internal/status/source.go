package status

import (
	"fmt"
	"strings"
)

// Source is where sockets come from, and what it lacks.
type Source struct {
	Kind       SourceKind `json:"kind"`               // empty: not known
	Reason     string     `json:"reason,omitempty"`   // why it is not events; empty: it is
	Namespaces int        `json:"namespaces"`         // network namespaces that are watched
	LeftOut    string     `json:"left_out,omitempty"` // what of others cannot be seen, and why
	Cure       string     `json:"-"`                  // what would show them; the problem about it tells
	Few        bool       `json:"few,omitempty"`      // LeftOut is the namespaces of a few processes at most
	// Older counts the namespaces with connections from before the table of events was
	// there, which it does not follow yet. Scans find those.
	Older int `json:"older"`
	// Lost counts sockets for which the table had no room, and Missed those that a check
	// by sock_diag found and the table lacked, both since the start.
	Lost   uint64 `json:"lost"`
	Missed uint64 `json:"missed"`
}

// SourceKind is how sockets are found.
type SourceKind string

// The kinds of sources.
const (
	Events   SourceKind = "events"    // the kernel keeps a table of stuck sockets as they change state
	SockDiag SourceKind = "sock_diag" // scans of the socket table
)

// SourceKinds are all of them.
var SourceKinds = []SourceKind{Events, SockDiag}

// String returns the source in a line: "events, 12 network namespaces, 3 with older
// connections by scans"; empty: it is not known.
func (s *Source) String() string {
	if s.Kind == "" {
		return ""
	}
	words := []string{string(s.Kind)}
	add := func(n uint64, what string) {
		if n > 0 {
			words = append(words, fmt.Sprint(n, " ", what))
		}
	}
	if s.Namespaces > 1 {
		add(uint64(s.Namespaces), "network namespaces")
	}
	switch {
	case s.Older == 0:
	case s.Namespaces == 1:
		words = append(words, "older connections by scans")
	default:
		add(uint64(s.Older), "with older connections by scans")
	}
	add(s.Lost, "without room in the table")
	add(s.Missed, "missed by it")
	text := strings.Join(words, ", ")
	if s.Reason != "" {
		text += "; no events: " + s.Reason
	}
	return text
}
