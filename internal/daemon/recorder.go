package daemon

import (
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/journal"
	"github.com/sockdog/sockdog/internal/sock"
)

// recorder writes to the state directory: the journal, and what must outlive a
// restart. A disk that hangs stops its goroutine and nothing else; only an act
// waits for the record of its intent, and not for ever.
type recorder struct {
	journal Journal // nil: none
	store   Store   // nil: none
	netns   string
	log     *logQueue
	now     func() sock.Instant
	done    chan struct{}

	failed    map[string]trouble        // by what failed
	unwritten map[sock.Key]*sock.Memory // what the store did not take, for when it does again
	unspent   []sock.Spent              // the same

	mu       sync.Mutex
	arrived  *sync.Cond
	waiting  batch
	lost     int               // records that there was no room for, not said yet
	inHand   int               // records of the write under way
	ailing   map[string]string // why what cannot be written
	closed   bool
	writing  sock.Instant // since when a write has been under way; 0: none is
	slowAt   sock.Instant // when a write that took long ended last
	saidSlow bool         // the log says that the disk is slow
	scanning *time.Timer  // has the directory looked for; nil: there is none
}

// batch is what waits to be written. What is remembered of a connection stands in
// it once, however long the disk takes.
type batch struct {
	records  []journal.Record
	spent    []sock.Spent
	memories map[sock.Key]*sock.Memory // nil: forget it
	groups   []sock.Group              // nil: no change
	recorded []chan struct{}           // closed once all this is written
	scan     bool                      // see whether the directory is still there
}

func (b *batch) empty() bool {
	return len(b.records)+len(b.spent)+len(b.memories)+len(b.recorded) == 0 && b.groups == nil && !b.scan
}

const (
	// mostRecords and mostMemories bound what waits for a disk that hangs: a few
	// megabytes each. A memory that has no room makes a restart count an age anew.
	mostRecords  = 10_000
	mostMemories = 50_000
	// slowAfter is how long a write may take before that is a problem, and
	// slowFor how long it stays one.
	slowAfter = time.Second
	slowFor   = time.Minute
	// lookEvery is how often it is seen whether the directory is still there.
	scanEvery = 5 * time.Second
)

func newRecorder(o *Options, log *logQueue) *recorder {
	r := &recorder{
		journal: o.Journal, store: o.Store, netns: o.Netns, log: log, now: o.Now, done: make(chan struct{}),
		failed: make(map[string]trouble), ailing: make(map[string]string),
	}
	r.arrived = sync.NewCond(&r.mu)
	if r.journal != nil || r.store != nil {
		r.mu.Lock() // look may run before the timer has its name
		r.scanning = time.AfterFunc(scanEvery, r.scan)
		r.mu.Unlock()
	}
	go r.run()
	return r
}

// look has it noticed, also where there is nothing to write, that the directory or
// a file in it was removed, or is there again.
func (r *recorder) scan() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	r.waiting.scan = true
	r.arrived.Signal()
	r.scanning.Reset(scanEvery)
}

// add has a part of a plan written, without waiting.
func (r *recorder) add(p *engine.Plan, records []journal.Record) {
	if len(records)+len(p.Remember)+len(p.Forget) == 0 && p.Groups == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.journal != nil {
		r.addRecords(records)
	}
	if r.store != nil {
		b := &r.waiting
		for i := range p.Remember {
			r.remember(p.Remember[i].Key, &p.Remember[i])
		}
		for _, key := range p.Forget {
			r.remember(key, nil)
		}
		if p.Groups != nil {
			b.groups = p.Groups
		}
	}
	r.arrived.Signal()
}

// addRecords adds what there is room for. An outcome closes an intent that is
// written, or will be, and has room always: the limits bound how many come.
func (r *recorder) addRecords(records []journal.Record) {
	b := &r.waiting
	for i := range records {
		if len(b.records) >= mostRecords && records[i].Seq == 0 {
			r.lost++
			continue
		}
		b.records = append(b.records, records[i])
	}
}

// remember has a memory written, or with nil a socket forgotten. A scan can bring
// a hundred thousand at once, which a disk that answers takes; what hangs over one
// that does not is bounded.
func (r *recorder) remember(key sock.Key, m *sock.Memory) {
	b := &r.waiting
	hangs := r.writingFor() >= slowAfter
	if _, known := b.memories[key]; !known && hangs && len(b.memories) >= mostMemories {
		return
	}
	if b.memories == nil {
		b.memories = make(map[sock.Key]*sock.Memory)
	}
	b.memories[key] = m
}

// Intend writes the record of acts before they are done. Where the disk refuses,
// or has not answered for engine.RecordPatience, the acts are done all the same: a
// full disk must not keep a leak alive. Of what is done while the disk does not
// answer there is no intent; the outcome, and what it uses up of the limits, are
// written when it does again.
func (r *recorder) Intend(actions []engine.Action) {
	if r.journal == nil && r.store == nil {
		return
	}
	patience := engine.RecordPatience - r.stalled()
	r.mu.Lock()
	b := &r.waiting
	if r.store != nil {
		b.spent = r.counting(append(b.spent, spent(actions, r.now())...))
	}
	if patience <= 0 {
		r.mu.Unlock()
		return
	}
	recorded := make(chan struct{})
	b.recorded = append(b.recorded, recorded)
	if r.journal != nil {
		now := time.Now()
		for i := range actions {
			actions[i].Seq = r.journal.NextSeq()
			intent := recordOf(&actions[i], r.netns, now)
			intent.Result = journal.Intent
			b.records = append(b.records, intent)
		}
	}
	r.arrived.Signal()
	r.mu.Unlock()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-recorded:
	case <-timer.C:
	}
}

// spent sums up the actions by rule, in the order of the rules' first. They count
// from now on: since they were decided, the disk may have kept them waiting for the
// records of others.
func spent(actions []engine.Action, now sock.Instant) []sock.Spent {
	var sums []sock.Spent
	at := make(map[string]int)
	for i := range actions {
		a := &actions[i]
		j, ok := at[a.Rule]
		if !ok {
			j = len(sums)
			at[a.Rule] = j
			sums = append(sums, sock.Spent{Rule: sock.RuleSum(a.Rule), At: now, Expires: now.Add(a.Window)})
		}
		sums[j].N++
	}
	return sums
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

// recorderEnd is how long the disk has to take what is left, at least.
const recorderEnd = 150 * time.Millisecond

// close waits until everything is written, for that long at most, and says what is
// not.
func (r *recorder) close(within time.Duration) {
	r.mu.Lock()
	r.closed = true
	if r.scanning != nil {
		r.scanning.Stop()
	}
	r.arrived.Signal()
	r.mu.Unlock()
	select {
	case <-r.done:
		return
	case <-time.After(within):
	}
	r.mu.Lock()
	n := r.inHand + len(r.waiting.records)
	r.mu.Unlock()
	r.log.say(slog.LevelError, "stopping before the state directory has taken all records", slog.Int("records", n), slog.Duration("waited", r.stalled()))
}

func (r *recorder) run() {
	defer close(r.done)
	for {
		r.mu.Lock()
		for r.waiting.empty() && !r.closed {
			r.arrived.Wait()
		}
		b, lost := r.waiting, r.lost
		r.waiting, r.lost, r.inHand = batch{}, 0, len(b.records)
		r.mu.Unlock()
		if b.empty() {
			return
		}
		r.write(&b)
		for _, recorded := range b.recorded {
			close(recorded)
		}
		if lost > 0 {
			r.log.say(slog.LevelError, "records were lost; the state directory took them too slowly", slog.Int("records", lost))
		}
	}
}

func (r *recorder) write(b *batch) {
	if b.scan && r.store != nil {
		r.scanAt(theStore, func() error { return r.store.Put(nil) })
	}
	if b.scan && r.journal != nil {
		r.scanAt(theJournal, func() error { return r.journal.Append(nil) })
	}
	if r.store != nil {
		r.writeStore(b)
	}
	if r.journal != nil && len(b.records) > 0 {
		r.try(theJournal, func() error { return r.journal.Append(b.records) })
	}
}

func (r *recorder) writeStore(b *batch) {
	if spent := r.counting(append(r.unspent, b.spent...)); len(spent) > 0 {
		r.unspent = nil
		if !r.try(theStore, func() error { return r.store.Spend(spent) }) {
			r.unspent = spent
		}
	}
	r.writeMemories(b)
	if b.groups != nil {
		r.try(theStore, func() error { return r.store.Keep(b.groups) })
	}
}

// writeMemories writes what is to be remembered. It is told once: what a full disk
// does not take is tried again with every scan.
func (r *recorder) writeMemories(b *batch) {
	put := make(map[sock.Key]*sock.Memory, len(b.memories))
	if b.scan && r.unwritten != nil {
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
		if !r.try(theStore, func() error { return r.store.Put(memories) }) {
			r.keepUnwritten(put)
		}
	}
	if len(forgotten) > 0 {
		r.try(theStore, func() error { return r.store.Forget(forgotten) })
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

// lookAt writes nothing. That this works says nothing of a disk that is full, so
// it ends no trouble but what an earlier scan has found.
func (r *recorder) scanAt(what string, scan func() error) {
	err := r.timed(scan)
	if err == nil && !r.failed[what].scanned {
		return
	}
	r.check(what, err)
	t := r.failed[what]
	t.scanned = err != nil
	r.failed[what] = t
}

// try makes one write, and reports whether it succeeded.
func (r *recorder) try(what string, write func() error) bool {
	err := r.timed(write)
	r.check(what, err)
	return err == nil
}

// timed makes one write, and says so while it takes long.
func (r *recorder) timed(write func() error) error {
	began := r.now()
	r.mu.Lock()
	r.writing = began
	recovered := r.saidSlow && began.Sub(r.slowAt) >= slowFor
	r.saidSlow = r.saidSlow && !recovered
	r.mu.Unlock()
	if recovered {
		r.log.say(slog.LevelInfo, "state directory answers in time again")
	}
	slow := time.AfterFunc(slowAfter, r.saySlow)
	hung := time.AfterFunc(engine.RecordPatience, func() {
		r.log.say(slog.LevelError, "state directory does not answer; kills go on without a record", slog.Duration("waited", engine.RecordPatience))
	})
	err := write()
	slow.Stop()
	took := r.now().Sub(began)
	if !hung.Stop() {
		r.log.say(slog.LevelWarn, "state directory answers again; what was done is written now", slog.Duration("waited", took.Round(time.Millisecond)))
	}
	r.mu.Lock()
	r.writing = 0
	if took >= slowAfter {
		r.slowAt = r.now()
	}
	r.mu.Unlock()
	return err
}

// saySlow says that a write takes long, once until writes have been fast for a
// while.
func (r *recorder) saySlow() {
	r.mu.Lock()
	said := r.saidSlow
	r.saidSlow = true
	r.mu.Unlock()
	if !said {
		r.log.say(slog.LevelWarn, "state directory is slow; kills wait for the record of their intent", slog.Duration("waited", slowAfter))
	}
}

// stalled is for how long the write under way has been.
func (r *recorder) stalled() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.writingFor()
}

// writingFor is stalled for who holds mu.
func (r *recorder) writingFor() time.Duration {
	if r.writing == 0 {
		return 0
	}
	return r.now().Sub(r.writing)
}

// slow says how slow the disk is, or "".
func (r *recorder) slow() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	stalled := r.writingFor()
	switch {
	case stalled >= engine.RecordPatience:
		return fmt.Sprintf("the state directory has not answered for %v: kills go on, and are recorded when it answers", stalled.Round(time.Second))
	case stalled >= slowAfter, r.slowAt != 0 && r.now().Sub(r.slowAt) < slowFor:
		return fmt.Sprintf("the state directory is slow: within the last minute a write took over %v, and kills wait for it", slowAfter)
	default:
		return ""
	}
}

// check says once that something cannot be written, and once that it can again.
func (r *recorder) check(what string, err error) {
	t := r.failed[what]
	switch {
	case err != nil && !t.told && (t.at == 0 || r.now().Sub(t.at) >= troubleEvery):
		r.log.say(slog.LevelError, what+" cannot be written: sockdog goes on, with what it remembers in memory only", slog.String("error", err.Error()))
		t.told, t.at = true, r.now()
	case err == nil && t.told:
		r.log.say(slog.LevelInfo, what+" can be written again")
		t.told = false
	}
	r.failed[what] = t
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.ailing, what)
	if err != nil {
		r.ailing[what] = err.Error()
	}
}

// What is written to.
const (
	theJournal = "the journal"
	theStore   = "the first-seen store"
)

// ails says why something could not be written, if it still cannot.
func (r *recorder) ails(what string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ailing[what]
}

// trouble is how it stands with something that could not be written.
type trouble struct {
	told    bool
	at      sock.Instant // when that was said last
	scanned bool         // a scan has found it
}

// troubleEvery is how often trouble is told of at most: a disk that is full for a
// large write has room for a small one, over and over.
const troubleEvery = 10 * time.Minute
