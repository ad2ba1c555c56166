package manualkill

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/action"
	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/track"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// Kernel is what a manual kill needs of sock_diag. It is for one thread.
type Kernel interface {
	Destroyer
	Scan(q sock.Query, each func(s *sock.Socket, got sock.Instant)) error
	// ScanMPTCP is as for sockdiag.Conn.
	ScanMPTCP(q sock.Query, each func(s *sock.Socket, got sock.Instant)) (known bool, err error)
}

// Destroyer looks sockets up and destroys them. It is for one thread.
type Destroyer interface {
	Lookup(ids []sock.ID, answers []sock.Answer) ([]sock.Answer, error)
	Destroy(id sock.ID) error
	Close() error
}

const (
	// batch is how many sockets a thread takes at a time, and looks up in one go to
	// confirm that they are gone.
	batch = 128
	// killBatch is how many are looked up, and then destroyed, in one go: few, since
	// one that comes alive between the two dies all the same.
	killBatch = 4
	// maxThreads is how many threads share the work. Nearly all of it is done in the
	// kernel, which lets them.
	maxThreads = 4
)

// Destroy destroys the targets. Each is looked up again by its cookie just before,
// and after it nothing of it may be left. The calling thread with its kernel does
// it, and some more that each open their own. When ctx ends, the batches under
// way are brought to their end and nothing else is begun.
func (r *Request) Destroy(ctx context.Context, targets []*Target, kernel Destroyer, open func() (Destroyer, error)) {
	if r.DryRun {
		for _, t := range targets {
			t.conclude(engine.Would, r.missing(t))
			if t.Reason == "" {
				t.Via = r.Way()
			}
		}
		return
	}
	batches := make(chan []*Target, len(targets)/batch+1)
	for some := range slices.Chunk(targets, batch) {
		batches <- some
	}
	close(batches)
	var denied atomic.Bool // the privilege is missing: no further try
	var more sync.WaitGroup
	for range min(maxThreads, runtime.GOMAXPROCS(0), len(batches)) - 1 {
		more.Go(func() {
			runtime.LockOSThread() // never unlocked: the capability ends with the thread
			kernel, err := open()
			if err != nil {
				return // the others do it all
			}
			defer kernel.Close()
			r.worker(kernel, &denied).do(ctx, batches)
		})
	}
	r.worker(kernel, &denied).do(ctx, batches)
	more.Wait()
	for _, t := range Pending(targets) {
		t.conclude(LeftAlone, "interrupted before its turn")
	}
}

// worker is one thread, and the memory that it reuses.
type worker struct {
	*Request
	kernel  Destroyer
	denied  *atomic.Bool
	ids     []sock.ID
	answers []sock.Answer

	descriptors action.Descriptors // nil: none is needed
	fds         map[*Target]int    // duplicates, for as long as a few targets take
}

func (r *Request) worker(kernel Destroyer, denied *atomic.Bool) *worker {
	w := &worker{Request: r, kernel: kernel, denied: denied}
	if r.Way() == rules.ViaHolder {
		w.descriptors, w.fds = r.Descriptors(), make(map[*Target]int)
	}
	return w
}

// do takes batches until none is left, or ctx ends.
func (w *worker) do(ctx context.Context, batches <-chan []*Target) {
	for targets := range batches {
		if ctx.Err() != nil {
			return
		}
		var told []*Target
		for few := range slices.Chunk(targets, killBatch) {
			if !w.denied.Load() {
				told = append(told, w.destroy(w.stillMeant(w.reach(few)))...)
				w.release()
			}
			for _, t := range Pending(few) {
				t.conclude(engine.Failed, "not tried: "+unix.EPERM.Error())
			}
		}
		w.confirm(told)
	}
}

// stillMeant looks the targets up again, concludes on those that are not any more
// what was selected, and returns the others, of which it knows what they are now.
// The cookie holds the kernel to the socket and not to its state or its traffic:
// what happened to it while this process was stopped, or waited for a processor,
// shows only when it is looked up once more.
func (w *worker) stillMeant(targets []*Target) []*Target {
	action.WhileFresh(w.now, func() {
		for i, a := range w.lookup(targets) {
			w.recheck(targets[i], &a)
		}
		targets = Pending(targets)
	})
	return targets
}

// destroy destroys the targets and returns those that the kernel was told to.
func (w *worker) destroy(targets []*Target) (told []*Target) {
	for _, t := range targets {
		switch err := w.act(t); {
		case err == nil:
			t.conclude(engine.Done, "")
			told = append(told, t)
		case errors.Is(err, sock.ErrUnconfirmed):
			t.conclude(engine.Unconfirmed, "the kernel's answer was lost")
			told = append(told, t)
		case errors.Is(err, sock.ErrGone):
			t.conclude(engine.Gone, "it ended by itself")
		case errors.Is(err, sock.ErrNotHeld):
			t.conclude(LeftAlone, action.Words(match.HolderChanged))
		default:
			if errors.Is(err, unix.EPERM) && t.Via == rules.ViaKernel {
				w.denied.Store(true)
			}
			t.conclude(engine.Failed, err.Error())
		}
	}
	return told
}

// act destroys a target.
func (w *worker) act(t *Target) error {
	way := w.Way()
	fd, open := w.fds[t]
	if way == rules.ViaHolder && !open {
		return sock.ErrNotHeld
	}
	if t.Via = way; way == rules.ViaHolder {
		return action.Disconnect(fd)
	}
	return w.kernel.Destroy(t.Socket.ID)
}

// confirm looks whether anything is left of the targets. A program can connect a socket
// anew that was destroyed under it: then done it is, and where the answer was lost it
// stays unconfirmed.
func (w *worker) confirm(told []*Target) {
	if len(told) == 0 {
		return
	}
	for i, a := range w.lookup(told) {
		t := told[i]
		same, _ := track.SameConnection(&t.Socket, t.got, &a, w.Precision)
		switch {
		case a.Err != nil:
			t.conclude(engine.Unconfirmed, "whether it is gone could not be asked: "+a.Err.Error())
		case a.Gone:
			t.conclude(engine.Done, "")
		case same:
			t.conclude(engine.Unconfirmed, "the kernel still shows it")
		}
	}
}

// lookup looks up the sockets of the targets. The error of the connection stands in
// the answers that it cost.
func (w *worker) lookup(targets []*Target) []sock.Answer {
	w.ids = w.ids[:0]
	for _, t := range targets {
		w.ids = append(w.ids, t.Socket.ID)
	}
	w.answers, _ = w.kernel.Lookup(w.ids, w.answers)
	return w.answers
}
