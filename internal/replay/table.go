package replay

import (
	"errors"
	"io"
	"iter"
	"time"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/spin"
	"github.com/sockdog/sockdog/internal/recording"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// moment is for how long after a scan its sockets are taken for as they were: what follows at
// once from what it showed is asked within milliseconds.
const moment = 100 * time.Millisecond

// table is a recording as an engine watches it. Between two scans nothing is known of what
// happens, so that whoever asks then is answered by the next one.
type table struct {
	reader *recording.Reader
	scan   recording.Scan // the last one
	now    sock.Instant
	next   sock.Instant // when the next scan is; sock.Never: there is none
	err    error        // why, if that is not the end
	lost   bool         // what the last scan showed, too: the next one made no sense
	most   int          // sockets in a scan

	hadPorts bool                // a scan told the port ranges
	unsure   map[uint32]struct{} // the inodes of sockets of which it was asked, and is not certain, who holds them

	// killed are the sockets that were killed, and are in the recording all the same. They
	// are not shown any more.
	killed map[sock.Key]struct{}
}

// newTable returns a table at the first scan, if there is one.
func newTable(r *recording.Reader) *table {
	t := &table{reader: r, killed: make(map[sock.Key]struct{}), unsure: make(map[uint32]struct{})}
	if t.look(); t.next != sock.Never {
		t.Advance(t.next)
	}
	return t
}

// look looks when the next scan is.
func (t *table) look() {
	var err error
	if t.next, err = t.reader.Ahead(); err != nil {
		t.end(err)
	}
}

func (t *table) end(err error) {
	t.next = sock.Never
	if !errors.Is(err, io.EOF) {
		t.err = err
	}
}

// Next is when the next scan is.
func (t *table) Next() sock.Instant { return t.next }

// Advance reads the scans up to an instant.
func (t *table) Advance(now sock.Instant) {
	for t.next <= now {
		scan, err := t.reader.Next()
		if err != nil {
			t.end(err)
			t.lost = true
			break
		}
		t.scan, t.most, t.hadPorts = *scan, max(t.most, t.reader.Len()), t.hadPorts || len(scan.Ports) > 0
		t.look()
	}
	t.now = now
}

// Answers is now if that is right after a scan, and else at the next one.
func (t *table) Answers() sock.Instant {
	switch {
	case t.lost:
		return sock.Never
	case t.now.Sub(t.scan.Got) <= moment:
		return t.now
	}
	return t.next
}

// Sockets are those of the last scan.
func (t *table) Sockets(q *sock.Query) iter.Seq[*sock.Socket] {
	return func(yield func(*sock.Socket) bool) {
		for s := range t.reader.Sockets(q.States, t.now) {
			if _, killed := t.killed[s.ID.Key()]; !killed && !yield(s) {
				return
			}
		}
	}
}

// Socket is one as the last scan showed it.
func (t *table) Socket(id sock.ID) (s sock.Socket, ok bool) {
	if _, killed := t.killed[id.Key()]; killed {
		return s, false
	}
	if s, ok = t.reader.Socket(id.Key(), t.now); ok && s.ID != id {
		return s, false // another connection: the kernel answers for those of the same addresses
	}
	return s, ok
}

// Counters are what was read before the last scan. Those that spare scans are not recorded.
func (t *table) Counters(pressure bool) engine.CountersRead {
	in := engine.CountersRead{OK: true, Ports: t.scan.Ports}
	if pressure {
		in.Pressure = t.scan.Pressure
	}
	return in
}

// Holders are who held sockets at the last scan.
func (t *table) Holders(inodes []uint32) engine.HoldersFound {
	in := engine.HoldersFound{
		Holders: make(map[uint32][]sock.Holder), FDUsage: make(map[spin.Process]float64), Complete: t.reader.Header.Holders && t.scan.Complete,
		Settled: t.scan.Settled,
	}
	for _, inode := range inodes {
		if held := t.reader.HoldersOf(inode); len(held) > 0 {
			in.Holders[inode] = held
		}
		if !in.Of(inode).Complete {
			t.unsure[inode] = struct{}{}
		}
	}
	for p, percent := range t.scan.FDUsage {
		in.FDUsage[spin.Process{PID: p.PID, Start: p.Start}] = percent
	}
	return in
}

// Do has a socket be gone that would be destroyed. What else would be done shows in no
// recording.
func (t *table) Do(a *engine.Action) error {
	if a.Kind.Destructive && a.Kind.On == rules.OnSocket {
		t.killed[a.Socket.ID.Key()] = struct{}{}
	}
	return nil
}
