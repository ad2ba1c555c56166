package daemon

import (
	"errors"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/action"
	"github.com/sockdog/sockdog/internal/counters"
	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// threads are those of the loop, the looker, the asker, the actor and the counter.
// The walk through /proc and the reading of CPU usage may wait for one of them.
const threads = 5

// workersEnd is how long the workers have to end what no act depends on.
const workersEnd = 50 * time.Millisecond

// startWorkers starts everything that may block, each on a thread of its own:
// a scan that takes 200 ms delays no kill. stop waits for them, within reason.
func (d *watch) startWorkers() (stop func(), err error) {
	// A worker inside the kernel keeps its processor of the runtime until the
	// runtime notices; the loop must not wait for that.
	if runtime.GOMAXPROCS(0) < threads {
		runtime.GOMAXPROCS(threads)
	}
	done := make(chan struct{})
	var workers sync.WaitGroup
	var opened []<-chan error
	start := func(open func() (work func(), err error)) {
		ready := make(chan error, 1)
		opened = append(opened, ready)
		workers.Go(func() {
			// The cost of a scan is counted by thread, and so is the capability to
			// destroy; the thread ends with the goroutine.
			runtime.LockOSThread()
			work, err := open()
			ready <- err
			if err == nil {
				work()
			}
		})
	}
	send := func(in engine.Input) {
		select {
		case d.inputs <- in:
		case <-done:
		}
	}
	start(func() (func(), error) { return d.scanner(done, send) })
	start(func() (func(), error) { return d.asker(done, send) })
	start(func() (func(), error) { return d.actor(done, send) })
	start(func() (func(), error) { return func() { d.walk(done, send) }, nil })
	start(func() (func(), error) { return func() { d.readNew(done, send) }, nil })
	start(func() (func(), error) { return func() { d.sampleUsage(done, send) }, nil })
	if d.Board != nil {
		start(func() (func(), error) { return d.counter(done) })
	}
	stopAll := func() {
		close(done)
		ended := make(chan struct{})
		go func() { workers.Wait(); close(ended) }()
		select {
		case <-ended:
		case <-time.After(workersEnd): // a walk through a large /proc need not end first
		}
		// The recorder may have something to say, and the log takes what time is left.
		left := d.end.Sub(d.Now())
		d.recorder.close(max(recorderEnd, left-logEnd))
		d.log.close(max(logEnd, d.end.Sub(d.Now())))
	}
	for _, ready := range opened {
		err = errors.Join(err, <-ready)
	}
	if err != nil {
		stopAll()
		return nil, err
	}
	return stopAll, nil
}

// openReaders opens what tells of the sockets: one by one, and in numbers.
func (d *watch) openReaders() (Kernel, Counters, error) {
	kernel, err := d.OpenKernel()
	if err != nil {
		return nil, nil, err
	}
	counts, err := d.OpenCounters()
	if err != nil {
		kernel.Close()
		return nil, nil, err
	}
	return kernel, counts, nil
}

// looker reads the counters and the socket table.
func (d *watch) scanner(done <-chan struct{}, send func(engine.Input)) (func(), error) {
	kernel, counts, err := d.openReaders()
	if err != nil {
		return nil, err
	}
	return func() {
		defer kernel.Close()
		defer counts.Close()
		told := make(map[int]string)
		for {
			select {
			case <-done:
				return
			case <-d.counts:
				send(Count(counts))
			case scan := <-d.scans:
				in := d.scan(kernel, scan)
				send(in)
				if in.Err == nil {
					d.tellWhere(told, scan, kernel.InUserSpace())
				}
			}
		}
	}, nil
}

// Count reads what the engine wants of the counters before a scan.
func Count(from Counters) engine.CountersRead {
	c, err := from.Read()
	in := engine.CountersRead{
		OK:     err == nil,
		InSegs: c.InSegs, HasInSegs: c.Has&counters.HasInSegs != 0,
		TimeWait: c.TimeWait, HasTimeWait: c.Has&counters.HasTimeWait != 0,
	}
	// Where they cannot be read, the usage of ports is not known.
	ports, err := from.Ports()
	if err != nil {
		return in
	}
	in.Ephemeral, in.Ports = ssfilter.PortRange(ports.Ephemeral), make([]ssfilter.PortRange, len(ports.Free))
	for i, r := range ports.Free {
		in.Ports[i] = ssfilter.PortRange(r)
	}
	return in
}

func (d *watch) scan(kernel Kernel, scan *engine.Scan) engine.ScanDone {
	began := threadTime()
	sent := d.Now()
	finding := scan.Begin(sent)
	err := kernel.Scan(scan.Query, finding.Take)
	return engine.ScanDone{Result: finding, Sent: sent, Cost: threadTime() - began, Err: err}
}

// tellWhere tells where the scans for a part of the rules are matched, if that has
// changed: in the kernel, unless there is a reason.
func (d *watch) tellWhere(told map[int]string, scan *engine.Scan, reason string) {
	if told[scan.Part()] == reason {
		return
	}
	told[scan.Part()] = reason
	states := scan.Query.States
	if reason == "" {
		d.say(slog.LevelDebug, "the kernel selects the sockets again", slog.String("states", states.String()))
		return
	}
	d.say(slog.LevelDebug, "the sockets are matched in user space", slog.String("states", states.String()), slog.String("reason", reason))
}

// threadTime is the CPU time that the calling thread has used. RUSAGE_THREAD
// counts in ticks, and reads 0 for most scans.
func threadTime() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// monotonicUsec is CLOCK_MONOTONIC as the service manager wants it.
func monotonicUsec() int64 {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) != nil {
		return 0
	}
	return ts.Nano() / 1000
}

// asker asks for single sockets.
func (d *watch) asker(done <-chan struct{}, send func(engine.Input)) (func(), error) {
	questions, err := newQuestioner(d.OpenKernel)
	if err != nil {
		return nil, err
	}
	d.questions.Store(questions)
	return func() {
		defer questions.close()
		// The engine is done with an answer before it asks that many times more.
		var answers [engine.MaxLookupBatches][]sock.Answer
		for n := 0; ; n = (n + 1) % len(answers) {
			select {
			case <-done:
				return
			case ids := <-d.asks:
				var err error
				answers[n], err = questions.Lookup(ids, answers[n])
				send(engine.LookupDone{IDs: ids, Answers: answers[n], Err: err})
			}
		}
	}, nil
}

// actor destroys sockets.
func (d *watch) actor(done <-chan struct{}, send func(engine.Input)) (func(), error) {
	kernel, err := d.OpenKernel()
	if err != nil {
		return nil, err
	}
	executor := action.Executor{
		Kinds:  d.Kinds,
		Kernel: kernel, Intents: d.recorder, Recheck: (*engine.Action).Recheck, Now: d.Now,
		Ruled: func() sock.Instant { return sock.Instant(d.ruled.Load()) },
	}
	return func() {
		defer kernel.Close()
		for {
			select {
			case <-done:
				return
			case actions := <-d.acts:
				send(engine.ActionsDone{Outcomes: executor.Do(actions)})
			}
		}
	}, nil
}

// walk finds the holders of sockets.
func (d *watch) walk(done <-chan struct{}, send func(engine.Input)) {
	if d.Examine != nil {
		send(d.examine())
	}
	if d.FindNew != nil {
		// Whoever holds what falls due first is then known before another walk ends.
		_, _ = d.FindHolders(nil)
	}
	for {
		select {
		case <-done:
			return
		case inodes := <-d.resolves:
			began := threadTime()
			// Where /proc cannot be walked at all, the holders are unknown.
			found, err := d.FindHolders(set(inodes))
			send(engine.HoldersFound{Holders: found.Holders, Complete: err == nil && found.Complete, Cost: threadTime() - began})
		}
	}
}

// readNew finds the holders of sockets that are new. It goes on beside a walk.
func (d *watch) readNew(done <-chan struct{}, send func(engine.Input)) {
	for {
		select {
		case <-done:
			return
		case inodes := <-d.reads:
			began := threadTime()
			in := engine.NewHoldersFound{Err: errors.ErrUnsupported}
			if d.FindNew != nil {
				found, err := d.FindNew(set(inodes))
				in.Holders, in.Err = found.Holders, err // with which the walk finds them, or nobody does
			}
			in.Cost = threadTime() - began
			send(in)
		}
	}
}

func set(inodes []uint32) map[uint32]struct{} {
	s := make(map[uint32]struct{}, len(inodes))
	for _, inode := range inodes {
		s[inode] = struct{}{}
	}
	return s
}
