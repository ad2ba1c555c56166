package daemon

import (
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/journal"
	"github.com/sockdog/sockdog/internal/sock"
)

// recorder writes to the state directory: the journal, and what must outlive a
// restart. A disk that hangs stops its goroutine and nothing else; only an act
// waits for the record of its intent, and not for ever.
type recorder struct {
	queue[batch]
	journal Journal // nil: none
	store   Store   // nil: none
	log     *logQueue
	now     func() sock.Instant
	health  diskHealth

	unwritten map[sock.Key]*sock.Memory // what the store did not take, for when it does again
	unspent   []sock.Spent              // the same
	unkept    []sock.RuleStop           // the same; nil: it has them

	inHand   atomic.Int64 // records of the write under way
	checking *time.Timer  // has the directory checked; nil: there is none
}

// batch is what waits to be written. What is remembered of a connection stands in
// it once, however long the disk takes.
type batch struct {
	records  []journal.Record
	lost     int // records that there was no room for
	spent    []sock.Spent
	memories map[sock.Key]*sock.Memory // nil: forget it
	groups   []sock.Group              // nil: no change
	stops    []sock.RuleStop           // the same
	recorded []chan struct{}           // closed once all this is written
	check    bool                      // see whether the directory is still there
}

const (
	// mostRecords and mostMemories bound what waits for a disk that hangs: a few
	// megabytes each. A memory that has no room makes a restart count an age anew.
	mostRecords  = 10_000
	mostMemories = 50_000
	// checkEvery is how often it is seen whether the directory is still there.
	checkEvery = 5 * time.Second
	// recorderEnd is how long the disk has to take what is left, at least.
	recorderEnd = 150 * time.Millisecond
)

func newRecorder(o *Options, log *logQueue) *recorder {
	r := &recorder{journal: o.Journal, store: o.Store, log: log, now: o.Now}
	r.health = diskHealth{log: log, now: o.Now, failed: make(map[string]trouble)}
	r.start(r.write)
	if r.journal != nil || r.store != nil {
		r.mu.Lock() // check may run before the timer has its name
		r.checking = time.AfterFunc(checkEvery, r.check)
		r.mu.Unlock()
	}
	return r
}

// check has it noticed, also where there is nothing to write, that the directory or
// a file in it was removed, or is there again.
func (r *recorder) check() {
	r.put(func(b *batch) {
		b.check = true
		if !r.closed {
			r.checking.Reset(checkEvery)
		}
	})
}

// add has a part of a plan written, without waiting.
func (r *recorder) add(p *engine.Plan, records []journal.Record) {
	if r.journal == nil {
		records = nil
	}
	remembers := r.store != nil && (len(p.Remember)+len(p.Forget) > 0 || p.Groups != nil || p.Stops != nil)
	if len(records) == 0 && !remembers {
		return
	}
	hangs := r.health.stalled() >= slowAfter
	r.put(func(b *batch) {
		b.addRecords(records)
		if !remembers {
			return
		}
		for i := range p.Remember {
			b.remember(p.Remember[i].Key, &p.Remember[i], hangs)
		}
		for _, key := range p.Forget {
			b.remember(key, nil, hangs)
		}
		if p.Groups != nil {
			b.groups = p.Groups
		}
		if p.Stops != nil {
			b.stops = p.Stops
		}
	})
}

// addRecords adds what there is room for. An outcome closes an intent that is
// written, or will be, and has room always: the limits bound how many come.
func (b *batch) addRecords(records []journal.Record) {
	for i := range records {
		if len(b.records) >= mostRecords && records[i].Seq == 0 {
			b.lost++
			continue
		}
		b.records = append(b.records, records[i])
	}
}

// remember has a memory written, or with nil a socket forgotten. A scan can bring
// a hundred thousand at once, which a disk that answers takes; what hangs over one
// that does not is bounded.
func (b *batch) remember(key sock.Key, m *sock.Memory, hangs bool) {
	if _, known := b.memories[key]; !known && hangs && len(b.memories) >= mostMemories {
		return
	}
	if b.memories == nil {
		b.memories = make(map[sock.Key]*sock.Memory)
	}
	b.memories[key] = m
}

// Intend writes the record of acts before they are done. Where the disk refuses,
// or has not answered for engine.RecordTimeout, the acts are done all the same: a
// full disk must not keep a leak alive. Of what is done while the disk does not
// answer there is no intent; the outcome, and what it uses up of the limits, are
// written when it does again.
func (r *recorder) Intend(actions []engine.Action) {
	now := r.now()
	r.intend(spent(actions, now), len(actions), engine.RecordTimeout, func(i int, seq uint64, at time.Time) journal.Record {
		actions[i].Seq = seq
		return recordOf(&actions[i], at)
	})
}

// IntendGroup does so before an action on a group is done.
func (r *recorder) IntendGroup(a *engine.GroupAction, patience time.Duration, record func(a *engine.GroupAction, at time.Time) journal.Record) {
	var counts []sock.Spent
	if now := r.now(); a.Window > 0 {
		counts = []sock.Spent{{Rule: sock.RuleSum(a.Limit()), N: 1, At: now, Expires: now.Add(a.Window), Own: !a.Kind().Destructive}}
	}
	r.intend(counts, 1, patience, func(_ int, seq uint64, at time.Time) journal.Record {
		a.Seq = seq
		return record(a, at)
	})
}

// intend writes what counts against limits from now on, and the records of n acts.
func (r *recorder) intend(counts []sock.Spent, n int, patience time.Duration, record func(i int, seq uint64, at time.Time) journal.Record) {
	if r.journal == nil && r.store == nil {
		return
	}
	patience -= r.health.stalled()
	recorded := make(chan struct{})
	r.put(func(b *batch) {
		if r.store != nil {
			b.spent = r.counting(append(b.spent, counts...))
		}
		if patience <= 0 {
			return
		}
		b.recorded = append(b.recorded, recorded)
		if r.journal == nil {
			return
		}
		now := time.Now()
		for i := range n {
			intent := record(i, r.journal.NextSeq(), now)
			intent.Result = journal.Intent
			b.records = append(b.records, intent)
		}
	})
	if patience <= 0 {
		return
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-recorded:
	case <-r.done: // it came too late, and will not be done
	case <-timer.C:
	}
}

// spent sums up the actions of each rule that follow each other. They count
// from now on: since they were decided, the disk may have kept them waiting for the
// records of others.
func spent(actions []engine.Action, now sock.Instant) []sock.Spent {
	var sums, shares []sock.Spent
	for i := range actions {
		a := &actions[i]
		if a.Window == 0 {
			continue // no limit counts it
		}
		spent := sock.Spent{Rule: sock.RuleSum(a.Rule), At: now, Expires: now.Add(a.Window)}
		if n := len(sums); n == 0 || sums[n-1].Rule != spent.Rule {
			sums = append(sums, spent)
		}
		sums[len(sums)-1].N++
		for _, share := range a.Shares {
			shares = append(shares, sock.Spent{Rule: share, N: 1, At: now, Expires: now.Add(a.ShareWindow), Share: true})
		}
	}
	return append(sums, shares...)
}

// counting drops what counts against no limit any more, where there is so much that
// a disk does not take it.
func (r *recorder) counting(all []sock.Spent) []sock.Spent {
	if len(all) <= mostRecords {
		return all
	}
	now := r.now()
	all = slices.DeleteFunc(all, func(s sock.Spent) bool { return s.Expires <= now })
	return all[max(0, len(all)-mostRecords):]
}

// close waits until everything is written, for that long at most, and says what is
// not.
func (r *recorder) close(within time.Duration) {
	r.mu.Lock()
	if r.checking != nil {
		r.checking.Stop()
	}
	r.mu.Unlock()
	if r.queue.close(within) {
		return
	}
	r.mu.Lock()
	n := int(r.inHand.Load()) + len(r.next.records)
	r.mu.Unlock()
	r.log.say(slog.LevelError, "stopping before the state directory has taken all records", slog.Int("records", n), slog.Duration("waited", r.health.stalled()))
}

func (r *recorder) write(b batch) {
	r.inHand.Store(int64(len(b.records)))
	if b.check && r.store != nil {
		r.health.check(theStore, func() error { return r.store.Put(nil) })
	}
	if b.check && r.journal != nil {
		r.health.check(theJournal, func() error { return r.journal.Append(nil) })
	}
	if r.store != nil {
		r.writeStore(&b)
	}
	if r.journal != nil && len(b.records) > 0 {
		r.health.write(theJournal, func() error { return r.journal.Append(b.records) })
	}
	for _, recorded := range b.recorded {
		close(recorded)
	}
	if b.lost > 0 {
		r.log.say(slog.LevelError, "records were lost; the state directory took them too slowly", slog.Int("records", b.lost))
	}
	r.inHand.Store(0)
}

func (r *recorder) writeStore(b *batch) {
	if spent := r.counting(append(r.unspent, b.spent...)); len(spent) > 0 {
		r.unspent = nil
		if !r.health.write(theStore, func() error { return r.store.Spend(spent) }) {
			r.unspent = spent
		}
	}
	r.writeMemories(b)
	if b.groups != nil {
		r.health.write(theStore, func() error { return r.store.Keep(b.groups) })
	}
	r.writeStops(b)
}

// writeStops writes which rules have stopped themselves. That is told once, too.
func (r *recorder) writeStops(b *batch) {
	stops := b.stops
	if stops == nil && b.check {
		stops = r.unkept
	}
	if stops == nil {
		return
	}
	if r.unkept = nil; !r.health.write(theStore, func() error { return r.store.KeepStops(stops) }) {
		r.unkept = stops
	}
}

// writeMemories writes what is to be remembered. It is told once: what a full disk
// does not take is tried again with every check.
func (r *recorder) writeMemories(b *batch) {
	put := make(map[sock.Key]*sock.Memory, len(b.memories))
	if b.check && r.unwritten != nil {
		put, r.unwritten = r.unwritten, nil
	}
	var forgotten []sock.Key
	for key, m := range b.memories {
		delete(r.unwritten, key)
		delete(put, key)
		if m != nil {
			put[key] = m
		} else {
			forgotten = append(forgotten, key)
		}
	}
	if len(put) > 0 {
		memories := make([]sock.Memory, 0, len(put))
		for _, m := range put {
			memories = append(memories, *m)
		}
		if !r.health.write(theStore, func() error { return r.store.Put(memories) }) {
			r.keepUnwritten(put)
		}
	}
	if len(forgotten) > 0 {
		r.health.write(theStore, func() error { return r.store.Forget(forgotten) })
	}
}

func (r *recorder) keepUnwritten(memories map[sock.Key]*sock.Memory) {
	if r.unwritten == nil {
		r.unwritten = make(map[sock.Key]*sock.Memory)
	}
	for key, m := range memories {
		if len(r.unwritten) >= mostMemories {
			return
		}
		kept := *m // and not all that came with it
		r.unwritten[key] = &kept
	}
}
