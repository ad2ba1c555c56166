package daemon

import (
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/sockdog/sockdog/internal/action"
	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/source/patient"
)

// readers are the source and the workers that read it: one that scans, one that asks
// for single sockets, one that acts on them, one that counts them.
type readers struct {
	Source
	scans   chan reading
	lookups chan []sock.ID
	actions chan []engine.Action

	scanStall   stall
	actionStall stall
	plans       int // whose actions are under way

	lookup atomic.Pointer[patient.Lookup] // nil: it is not open yet
	states stateCounts
}

// reading is what is to be read: the socket table, or the counters alone.
type reading struct {
	scan     *engine.Scan // nil: the counters
	pressure bool         // and what is short
}

func newReaders(s Source) readers {
	return readers{
		Source: s,
		// The engine bounds what is under way of each kind: no send on these waits.
		scans:   make(chan reading, 2),
		lookups: make(chan []sock.ID, engine.MaxLookupBatches),
		actions: make(chan []engine.Action, engine.MaxActionBatches),
		states:  stateCounts{wanted: make(chan struct{}, 1)},
	}
}

// startReaders starts the workers that read the source.
func (d *watch) startReaders() {
	r := &d.readers
	start(d.workers, r.scans, d.scanWorker)
	start(d.workers, r.lookups, d.lookupWorker)
	start(d.workers, r.actions, d.actionWorker)
	if d.StatusStore != nil {
		start(d.workers, r.states.wanted, d.stateWorker)
	}
}

// openReaders opens what tells of the sockets: one by one, and in numbers.
func (s *Source) openReaders() (scanner Scanner, counts Counters, end func(), err error) {
	if scanner, err = s.OpenScanner(); err != nil {
		return nil, nil, nil, err
	}
	if counts, err = s.OpenCounters(); err != nil {
		scanner.Close()
		return nil, nil, nil, err
	}
	return scanner, counts, func() { scanner.Close(); counts.Close() }, nil
}

// scanWorker reads the counters and the socket table.
func (d *watch) scanWorker() (func(reading), func(), error) {
	scanner, counts, end, err := d.readers.openReaders()
	told := make(map[int]string)
	return func(wanted reading) {
		scan := wanted.scan
		if scan == nil {
			d.workers.send(Count(counts, wanted.pressure))
			return
		}
		in := d.scan(scanner, scan)
		d.workers.send(in)
		if in.Err == nil {
			d.tellWhere(told, scan, scanner.InUserSpace())
		}
	}, end, err
}

// Count reads what the engine wants of the counters, before a scan or for rules that need
// nothing else.
func Count(from Counters, pressure bool) engine.CountersRead {
	c, err := from.Read()
	in := engine.CountersRead{OK: err == nil, Counters: c}
	if pressure {
		if p, err := from.Pressure(); err == nil {
			in.Pressure = &p
		}
	}
	// Where they cannot be read, the usage of ports is not known.
	if ports, err := from.Ports(); err == nil {
		in.Ports = ports
	}
	return in
}

func (d *watch) scan(scanner Scanner, scan *engine.Scan) engine.ScanDone {
	began := sock.ThreadTime()
	sent := d.Now()
	result := scan.Begin(sent)
	err := scanner.Scan(scan.Query, result.Take)
	cost := sock.ThreadTime() - began
	if s, ok := scanner.(interface{ Elsewhere() time.Duration }); ok {
		cost += s.Elsewhere() // on other threads
	}
	return engine.ScanDone{Result: result, Sent: sent, Cost: cost, Err: err}
}

// tellWhere tells where the scans for a part of the rules are matched, if that has
// changed: in the kernel, unless there is a reason.
func (d *watch) tellWhere(told map[int]string, scan *engine.Scan, reason string) {
	if told[scan.Part()] == reason {
		return
	}
	told[scan.Part()] = reason
	attrs := []slog.Attr{slog.String("states", scan.Query.States.String())}
	if reason == "" {
		d.log.say(slog.LevelDebug, "the kernel selects the sockets again", attrs...)
		return
	}
	d.log.say(slog.LevelDebug, "the sockets are matched in user space", append(attrs, slog.String("reason", reason))...)
}

// lookupWorker asks for single sockets.
func (d *watch) lookupWorker() (func([]sock.ID), func(), error) {
	lookup, err := patient.Open(d.readers.OpenLookup)
	if err != nil {
		return nil, nil, err
	}
	d.readers.lookup.Store(lookup)
	// The engine is done with an answer before it asks that many times more.
	var answers [engine.MaxLookupBatches][]sock.Answer
	i := 0
	return func(ids []sock.ID) {
		var err error
		answers[i], err = lookup.Lookup(ids, answers[i])
		d.workers.send(engine.LookupDone{IDs: ids, Answers: answers[i], Err: err})
		i = (i + 1) % len(answers)
	}, func() { lookup.Close() }, nil
}

// actionWorker acts on sockets.
func (d *watch) actionWorker() (func([]engine.Action), func(), error) {
	destroyer, err := d.readers.OpenDestroyer()
	if err != nil {
		return nil, nil, err
	}
	executor := action.Executor{
		Kinds:  d.Kinds,
		Kernel: destroyer, Descriptors: d.Descriptors, Intents: d.recorder, Recheck: (*engine.Action).Recheck, Now: d.Now,
		RulesChanged: func() sock.Instant { return sock.Instant(d.rulesChanged.Load()) },
		Paused:       d.paused.Load,
	}
	return func(actions []engine.Action) {
		d.workers.send(engine.ActionsDone{Outcomes: executor.Do(actions)})
	}, func() { destroyer.Close() }, nil
}

// watchOver notes that something is under way in the kernel. If that takes too long,
// late is said.
func (d *watch) watchOver(s *stall, patience time.Duration, late string) {
	s.begin(d.Now(), patience, func() {
		d.log.say(slog.LevelError, late, slog.Duration("waited", patience), slog.String("cure", lockCure))
	})
}

// over notes that it has ended. If late was said, so is ended.
func (d *watch) over(s *stall, ended string) {
	if took, late := s.end(d.Now()); late {
		d.log.say(slog.LevelWarn, ended, waited(took))
	}
}

// acting notes that the actions of one plan more are under way.
func (d *watch) acting() {
	if d.readers.plans++; d.readers.plans == 1 {
		d.watchOver(&d.readers.actionStall, actionPatience, actionLate)
	}
}

// acted notes that the actions of a plan have ended. Those of the next begin.
func (d *watch) acted() {
	d.over(&d.readers.actionStall, "action ended; others are done again")
	if d.readers.plans--; d.readers.plans > 0 {
		d.watchOver(&d.readers.actionStall, actionPatience, actionLate)
	}
}

const actionLate = "action does not end; no other is done"

func waited(d time.Duration) slog.Attr { return slog.Duration("waited", d.Round(time.Millisecond)) }
