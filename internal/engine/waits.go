package engine

import (
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/track"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// waits are the sockets that were seen in an accept queue, and that are not kept in mind:
// for want of room, or because no rule wants anything of them as they are. The kernel takes
// them for older than they are, so what was seen of them counts whenever a rule may mean
// them again, by who holds them or by anything else that changes.
type waits struct {
	known map[sock.Key]wait // a scan under way reads it
	fresh map[sock.Key]wait // what is to be known to the next scan, too
}

// wait is what is known of a socket that was in an accept queue.
type wait struct {
	accepted sock.Instant            // a program had it by then; 0: it was still there
	state    ssfilter.State          // and it was in that state; a later one was entered with the program
	stored   bool                    // it is on disk
	missed   [match.NumClasses]uint8 // scans for the class that have not shown it since
}

const (
	// mostWaits bounds what is remembered of sockets that are not watched: a few megabytes.
	mostWaits = 100_000
	// waitScans is how many scans for each class in a row do not show a socket before it is
	// forgotten, and crowdedScans where there is no more room than for as many again.
	// Absent is not gone: what a scan is for may not mean the socket for a while.
	waitScans, crowdedScans = 100, 10
)

// waitOf is what is to be known of a connection that is forgotten; ok: it was in an accept
// queue.
func waitOf(c *track.Packed) (w wait, ok bool) {
	if c.Accepted() {
		return wait{accepted: c.Entered(), state: c.State()}, true
	}
	return wait{}, c.Backlog()
}

// waitOfMemory is what is to be known of one that an earlier run knew.
func waitOfMemory(m *sock.Memory) (w wait, ok bool) {
	if m.Accepted && !m.Backlog {
		return wait{accepted: m.Entered, state: m.State, stored: true}, true
	}
	return wait{stored: true}, m.Backlog
}

// get is what is known of a socket.
func (w *waits) get(key sock.Key) (known wait, ok bool) {
	if known, ok = w.fresh[key]; !ok {
		known, ok = w.known[key]
	}
	return known, ok
}

// add remembers a socket that is not kept in mind any more, and reports whether there is room
// for it.
func (w *waits) add(key sock.Key, known wait) bool { return put(&w.fresh, key, known) }

// drop forgets what was added of a socket that is kept in mind again.
func (w *waits) drop(key sock.Key) { delete(w.fresh, key) }

// settle has the next scan know of what was added, and returns what is on disk and has no
// room. No scan is under way.
func (w *waits) settle(watched func(sock.Key) bool) (lost []sock.Key) {
	for key := range w.known {
		if watched(key) {
			delete(w.known, key)
		}
	}
	for key, known := range w.fresh {
		if !put(&w.known, key, known) && known.stored {
			lost = append(lost, key)
		}
	}
	w.fresh = nil
	return lost
}

// shown takes in what a scan showed of sockets that are not kept in mind.
func (w *waits) shown(seen map[sock.Key]wait) {
	for key, known := range seen {
		w.add(key, known)
	}
}

// miss counts a whole scan for some classes, and forgets those that the last scans for all
// classes that are scanned have not shown. It returns those of them that are on disk.
func (w *waits) miss(seen map[sock.Key]wait, of, scanned match.ClassSet) (lost []sock.Key) {
	most := uint8(waitScans)
	if len(w.known) > mostWaits/2 {
		most = crowdedScans
	}
	for key, known := range w.known {
		if _, ok := seen[key]; ok {
			continue
		}
		over := true
		for c := range match.NumClasses {
			if of.Has(c) {
				known.missed[c] = min(known.missed[c]+1, most)
			}
			over = over && (known.missed[c] >= most || !scanned.Has(c))
		}
		if !over {
			w.known[key] = known
			continue
		}
		delete(w.known, key)
		if known.stored {
			lost = append(lost, key)
		}
	}
	return lost
}

// put adds to what is known of sockets, or replaces it, and reports whether there is room.
func put(to *map[sock.Key]wait, key sock.Key, known wait) bool {
	if *to == nil {
		*to = make(map[sock.Key]wait)
	}
	if _, old := (*to)[key]; !old && len(*to) >= mostWaits {
		return false
	}
	(*to)[key] = known
	return true
}

// before is what is known of a socket that is not kept in mind, from before the answer, and
// whether it is on disk.
func (w *waits) before(s *sock.Socket) (c track.Connection, onDisk bool) {
	c.ID = s.ID
	known, ok := w.get(s.ID.Key())
	if ok {
		c.State, c.Backlog, c.Accepted = known.state, known.accepted == 0, known.accepted != 0
		c.Entered = track.Bound{Safe: known.accepted, Early: known.accepted}
	}
	return c, known.stored
}

// keepWait notes a socket that the scan shows and does not bring, if it was seen in an
// accept queue before; also says that it is noted if it is in one now.
func (f *ScanResult) keepWait(s *sock.Socket, got sock.Instant, also bool) {
	known, ok := f.scan.waited[s.ID.Key()]
	switch {
	case !ok && !(also && s.InBacklog()):
		return
	case s.InBacklog():
		known.accepted = 0
	case known.accepted == 0:
		known.accepted, known.state = got, s.State
	}
	known.missed = [match.NumClasses]uint8{}
	put(&f.waits, s.ID.Key(), known)
}

// takeWaits takes in which sockets a scan showed in accept queues that comes to nothing
// else, because it failed or was for other rules.
func (e *Engine) takeWaits(f *ScanResult) {
	if f == nil {
		return
	}
	for h := range f.hits.All() {
		if s := f.hits.socket(h); s.InBacklog() {
			f.keepWait(&s, f.hits.got(h), true)
		}
	}
	e.scans.waits.shown(f.waits)
}
