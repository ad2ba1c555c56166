package engine

import (
	"time"

	"github.com/sockdog/sockdog/internal/sock"
)

// Look is one reading of the socket table for some of the rules. The thread that
// reads hands it every socket and gives it back, whole, in Looked.
type Look struct {
	Query   sock.Query
	program *Program
	of      classSet
	horizon sock.Instant // what falls due later is left to a later look
	// known are those of whom an earlier run may know more than the kernel does.
	known     map[uint64]sock.Memory
	precision time.Duration
	sent      sock.Instant
}

// Finding is what a whole look found.
type Finding struct {
	look *Look
	hits []hit
	// later is when the first of those falls due that were left to a later look.
	later sock.Instant
}

type hit struct {
	sock.Socket
	got sock.Instant
}

// Part tells looks for some of the rules from looks for others.
func (l *Look) Part() int { return int(l.of) }

// Begin starts a finding; sent is when the request went out.
func (l *Look) Begin(sent sock.Instant) *Finding {
	l.sent = sent
	return &Finding{look: l, later: never}
}

// Take looks at one socket of the answer. A socket whose age the kernel keeps,
// and which falls due only beyond the horizon, is left to a later look: so
// memory follows what is due, not what there is.
func (f *Finding) Take(s *sock.Socket, got sock.Instant) {
	l := f.look
	t := timesOf(s, l.sent, got, l.precision)
	due := never
	for i, m := range l.program.index.candidates(s) {
		if l.of.has(l.program.rules[i].class) {
			due = min(due, dueAt(m, t.earlyBase(), t.queued))
		}
	}
	if due == never {
		return
	}
	_, known := l.known[s.ID.Cookie]
	if due <= l.horizon || known || !lasting(s) {
		f.hits = append(f.hits, hit{*s, got})
		return
	}
	f.later = min(f.later, due)
}
