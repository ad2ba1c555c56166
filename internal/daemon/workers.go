package daemon

import (
	"errors"
	"runtime"
	"sync"
	"time"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/sock"
)

// threads are those of the loop, and of the four that read the source. The walk
// through /proc and the reading of CPU usage may wait for one of them.
const threads = 5

// workersEnd is how long the workers have to end what no act depends on.
const workersEnd = 50 * time.Millisecond

// workers are everything that may block, each on a thread of its own: a scan that
// takes 200 ms delays no kill.
type workers struct {
	inputs  chan<- engine.Input
	done    chan struct{} // closed: they end
	running sync.WaitGroup
	opened  []<-chan error
}

// start starts a worker. What open returns does what is requested, until done is
// closed, and is then closed itself.
func start[R any](w *workers, requests <-chan R, open func() (do func(R), end func(), err error)) {
	opened := make(chan error, 1)
	w.opened = append(w.opened, opened)
	w.running.Go(func() {
		// The cost of a scan is counted by thread, and so is the capability to
		// destroy; the thread ends with the goroutine.
		runtime.LockOSThread()
		do, end, err := open()
		opened <- err
		if err != nil {
			return
		}
		defer end()
		for {
			select {
			case <-w.done:
				return
			case r := <-requests:
				do(r)
			}
		}
	})
}

// ready is a worker for which nothing is to be opened.
func ready[R any](do func(R)) func() (func(R), func(), error) {
	return func() (func(R), func(), error) { return do, func() {}, nil }
}

// send hands an input to the loop.
func (w *workers) send(in engine.Input) {
	select {
	case w.inputs <- in:
	case <-w.done:
	}
}

// stop has the workers end, and waits for those that do soon: a walk through a large
// /proc need not.
func (w *workers) stop() {
	close(w.done)
	ended := make(chan struct{})
	go func() { w.running.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(workersEnd):
	}
}

// startWorkers starts the workers. stop waits for them, and for the disk and the log,
// within reason.
func (d *watch) startWorkers() (stop func(), err error) {
	// A worker inside the kernel keeps its processor of the runtime until the
	// runtime notices; the loop must not wait for that.
	if runtime.GOMAXPROCS(0) < threads {
		runtime.GOMAXPROCS(threads)
	}
	w := &workers{inputs: d.inputs, done: make(chan struct{})}
	d.workers = w
	d.startReaders()
	d.resolves <- nil // to begin with
	start(w, d.resolves, ready(d.walk))
	start(w, d.reads, ready(d.readNew))
	start(w, d.samples, ready(d.sampleUsage))
	start(w, d.probes, ready(d.probe))
	stop = func() {
		w.stop()
		d.rulesChanged.Store(int64(sock.Never)) // what a worker has yet to do, nobody would record
		// The recorder may have something to say, and the log takes what time is left.
		left := d.end.Sub(d.Now())
		d.recorder.close(max(recorderEnd, left-logEnd))
		d.log.close(max(logEnd, d.end.Sub(d.Now())))
	}
	for _, opened := range w.opened {
		err = errors.Join(err, <-opened)
	}
	if err != nil {
		stop()
		return nil, err
	}
	return stop, nil
}

// walk finds the holders of sockets.
func (d *watch) walk(inodes []uint32) {
	if inodes == nil {
		// Whoever holds what falls due first is then known before another walk ends.
		found, err := d.FindHolders(nil)
		d.workers.send(examinedBy(found.Access, err))
		return
	}
	began := sock.ThreadTime()
	in := d.findHolders(set(inodes))
	if d.wantsFDs.Load() {
		in.FDUsage = FDUsage(in.Holders, d.ReadDescriptors)
	}
	in.Cost = sock.ThreadTime() - began
	d.workers.send(in)
}

// findHolders finds who holds sockets. Where /proc cannot be walked at all, they are
// unknown.
func (d *watch) findHolders(inodes map[uint32]struct{}) engine.HoldersFound {
	found, err := d.FindHolders(inodes)
	return engine.HoldersFound{Holders: found.Holders, Complete: err == nil && found.Complete, Settled: found.Settled, Err: err}
}

// readNew finds the holders of sockets that are new. It goes on beside a walk. Where it
// fails, the walk finds them, or nobody does.
func (d *watch) readNew(inodes []uint32) {
	began := sock.ThreadTime()
	found, err := d.FindNew(set(inodes))
	d.workers.send(engine.NewHoldersFound{Holders: found.Holders, Err: err, Cost: sock.ThreadTime() - began})
}

// probe fetches URLs, some at a time. What hangs ends by its timeout, and nothing else waits
// for it.
func (d *watch) probe(urls []string) {
	slots := make(chan struct{}, mostProbes)
	for _, url := range urls {
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			d.workers.send(engine.Probed{URL: url, Err: d.FetchProbe(url)})
		}()
	}
}

// mostProbes is how many probes are made at a time.
const mostProbes = 8

func set(inodes []uint32) map[uint32]struct{} {
	s := make(map[uint32]struct{}, len(inodes))
	for _, inode := range inodes {
		s[inode] = struct{}{}
	}
	return s
}
