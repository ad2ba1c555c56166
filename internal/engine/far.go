package engine

import (
	"container/heap"
	"time"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/engine/table"
	"github.com/sockdog/sockdog/internal/engine/track"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Connections of which observation knows more than the kernel (healthy ones with
// keepalives, mostly), and that do not fall due for long, are kept apart: nothing is
// pending on them, and the thread that scans compares them with what it is shown, so
// that a scan brings hardly any of them. As it reads them, none is added, changed or
// taken away while a scan is under way.

// farChange is what a scan makes of a far connection.
type farChange struct {
	track.Delta
	number uint32
}

// farCount is how many segments a far connection got.
type farCount struct{ number, segsIn uint32 }

// farShown is what a scan shows of far connections. Those that it brings fall due
// before long, or have become another connection, and are none any more.
type farShown struct {
	shown   table.Bits            // numbers of those that were shown
	changed table.List[farChange] // of those
	counted table.List[farCount]  // and of those that only got segments
	over    []uint32              // numbers of those of which nothing is to be known any more
	fresh   tracks                // those of which nothing was known before
}

// takeFar takes in the socket of a far connection. What of it may matter to a rule before
// long is brought.
func (f *ScanResult) takeFar(far *tracked, sub subject.Subject, fresh track.Times, got sock.Instant) {
	l, s := f.scan, sub.Socket
	number := l.far.number(far)
	if f.far.shown.Has(int(number)) {
		return // the walk came upon it before, see again
	}
	c := l.far.connection(far)
	same, times := c.Same(s, f.sentBy(got)), fresh
	if same {
		c.Update(s, fresh, got)
		c.TellAutobound(s)
		times = c.Times
	}
	due, of, ages := f.dueBy(sub, &times)
	if l.ports != nil {
		f.usePort(s)
	}
	if of&l.of == 0 {
		return
	}
	// One that other rules may match by now is for the engine to consider.
	if same && due > l.lookahead && !s.InUse() && of&^far.of == 0 && f.keepFar(number, far, &c, s, got, due != never || ages) {
		f.later = min(f.later, due)
		f.count(sub, &times, got)
		return
	}
	f.far.shown.Set(int(number))
	f.bring(f.hits.pack(s, got, true), due, true)
}

// keepFar notes what a scan shows of a far connection that is none of a rule before
// long, and reports whether it is to stay one. Wanted: a rule may want it then.
func (f *ScanResult) keepFar(number uint32, far *tracked, c *track.Connection, s *sock.Socket, got sock.Instant, wanted bool) bool {
	f.far.shown.Set(int(number))
	p := c.Pack()
	all := far.of&^f.scan.of == 0 // that is, of the rules it may match
	plain := all && isPlain(s, f.sentBy(got), got, &c.Times, f.scan.precision)
	if plain || all && !wanted {
		f.far.over = append(f.far.over, number)
		if w, waited := waitOf(&p); waited && !plain {
			put(&f.waits, s.ID.Key(), w)
		}
		return true
	}
	d, ok := far.Packed.Delta(&p)
	if !ok {
		return false
	}
	was, _ := far.Packed.Delta(&far.Packed)
	switch {
	case !d.OnlySegments(was, 2*f.scan.precision):
		f.far.changed.Add(farChange{d, number})
	case d.SegsIn != was.SegsIn: // what it is known the better by is not worth the memory
		f.far.counted.Add(farCount{number, d.SegsIn})
	}
	return true
}

// beginFar makes a far connection of a socket of which nothing is known yet, which
// falls due at that instant, and reports whether there is room for it.
func (f *ScanResult) beginFar(s *sock.Socket, fresh track.Times, got, due sock.Instant, of match.ClassSet) bool {
	c := track.Begin(s, fresh, got)
	c.Autobound = s.Autobound
	p := c.Pack()
	if !canBeFar(&p) || f.scan.far == nil {
		return false
	}
	if f.far.fresh.get(s.ID.Key()) != nil {
		return true // the walk came upon it before, see again
	}
	if !f.hasRoom() {
		return false
	}
	t := f.far.fresh.add(&c)
	t.rank, t.of = due, of
	if f.scan.bounded { // one that falls due before may displace it
		p := f.placedFor(s, due)
		p.at = ^int32(f.far.fresh.number(t))
		heap.Push(&f.bounded, p)
	}
	return true
}

// canBeFar reports whether a scan tells all that is to be known of the connection.
func canBeFar(c *track.Packed) bool {
	return !c.Backlog() && !c.InUse() && c.State() != ssfilter.SynSent
}

// makeFar keeps a connection apart that falls due at next.
func (e *Engine) makeFar(t *tracked, next sock.Instant) {
	c := e.tracks.connection(t)
	f := e.far.add(&c)
	f.rank, f.of, f.flags = next, t.of, t.flags&(stored|behind)
	t.set(stored, false) // it is not forgotten
	e.drop(t, Changed, 0)
	e.scans.waits.drop(c.ID.Key())
}

// near tracks a far connection, on which something is pending again. It stays where it is
// beside a scan that reads it.
func (e *Engine) near(f *tracked) *tracked {
	c := e.far.connection(f)
	t := e.tracks.add(&c)
	t.of, t.flags = f.of, f.flags
	f.flags = copied
	if e.scans.running == nil {
		e.far.remove(f)
	}
	return t
}

// bringNear tracks all far connections, which are asked for, or those that fall due before
// the scan after the next.
func (e *Engine) bringNear(all bool, now sock.Instant) {
	for f := range e.far.all() {
		switch due := f.rank; {
		case f.is(copied):
			if e.scans.running == nil {
				e.far.remove(f)
			}
		case all:
			e.wait(e.near(f), now)
		case due <= e.lookahead(f.of, now):
			e.waitAhead(e.near(f), due, now)
		}
	}
}

// scanPatience is how long far connections wait for a scan under way, which may not
// end: less than it leaves time before any of them falls due.
const scanPatience = 5 * time.Second

// nearAt returns when far connections wait for a scan no more.
func (e *Engine) nearAt() sock.Instant {
	if e.scans.running == nil || e.far.n == 0 {
		return never
	}
	return e.scans.overdue
}

// nearBesideScan brings far connections near while a scan is under way that takes long.
func (e *Engine) nearBesideScan(now sock.Instant) {
	if now >= e.nearAt() {
		e.scans.overdue = now.Add(scanPatience)
		e.bringNear(e.scans.running.program != e.program, now)
	}
}

// takeFar takes in what a whole scan shows of far connections. Those of its classes
// that it does not show are asked for: absent is not gone.
func (e *Engine) takeFar(r *ScanResult, now sock.Instant) {
	far := &r.far
	for change := range far.counted.All() {
		f := e.far.at(change.number)
		if f.is(copied) {
			continue
		}
		d, _ := f.Packed.Delta(&f.Packed)
		d.SegsIn = change.segsIn
		f.Apply(&d)
	}
	for change := range far.changed.All() {
		f := e.far.at(change.number)
		if f.is(copied) {
			continue
		}
		before := e.far.connection(f)
		f.Apply(&change.Delta)
		c := e.far.connection(f)
		e.persist(f, &c, &before, before.Acked != c.Acked || before.Received != c.Received, now)
		f.set(seen, true)
	}
	for _, number := range far.over {
		f := e.far.at(number)
		if f.is(copied) {
			continue
		}
		key := e.far.key(f)
		if w, waited := r.waits[key]; waited && f.is(stored) {
			w.stored = true
			r.waits[key] = w
			f.set(stored, false) // it is not forgotten
		}
		e.forgetFar(f)
	}
	for number, f := range e.far.numbered() {
		switch {
		case f.is(copied):
			e.far.remove(f)
		case f.is(seen):
			f.set(seen, false)
		case far.shown.Has(int(number)):
			if f.is(behind) { // and has not changed since the last scan
				c := e.far.connection(f)
				e.persist(f, &c, &c, false, now)
			}
		case f.of&r.scan.of != 0:
			e.wait(e.near(f), now)
		}
	}
	e.addFar(&far.fresh, now)
}

// addFar adds what a scan shows of far connections for the first time.
func (e *Engine) addFar(fresh *tracks, now sock.Instant) {
	if e.far.n == 0 {
		e.far = *fresh
		fresh = &e.far
	}
	for f := range fresh.all() {
		c := fresh.connection(f)
		if fresh != &e.far {
			rank, of := f.rank, f.of
			f = e.far.add(&c)
			f.rank, f.of = rank, of
		}
		e.persist(f, &c, &track.Connection{}, false, now)
	}
}

func (e *Engine) forgetFar(f *tracked) {
	if f.is(stored) {
		e.plan.Forget = append(e.plan.Forget, e.far.key(f))
	}
	e.far.remove(f)
}
