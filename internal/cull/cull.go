package cull

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/action"
	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/track"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// Kernel is what a cull needs of sock_diag. It is for one thread.
type Kernel interface {
	Scan(q sock.Query, each func(s *sock.Socket, got sock.Instant)) error
	Lookup(ids []sock.ID, answers []sock.Answer) ([]sock.Answer, error)
	Destroy(ids []sock.ID, outcomes []error) ([]error, error)
	Close() error
}

const (
	// batch is how many sockets a thread takes at a time, and asks for in one go to
	// confirm that they are gone.
	batch = 128
	// killBatch is how many are asked for, and then destroyed, in one go: few, since
	// one that comes alive between the two dies all the same.
	killBatch = 4
)

// mostThreads is how many threads share the work. Nearly all of it is done in the
// kernel, which lets them.
const mostThreads = 4

// Cull destroys the targets. Each is asked for again by its cookie just before,
// and after it nothing of it may be left. The calling thread with its kernel does
// it, and some more that each open their own. When ctx ends, the batches under
// way are brought to their end and nothing else is begun.
func (o *Order) Cull(ctx context.Context, doomed []*Target, kernel Kernel, open func() (Kernel, error)) {
	if o.DryRun {
		for _, t := range doomed {
			t.conclude(engine.Would, o.Capabilities.Cannot(rules.Kill, &t.Socket))
		}
		return
	}
	w := work{order: o, doomed: doomed}
	var more sync.WaitGroup
	batches := (len(doomed) + batch - 1) / batch
	for range min(mostThreads, runtime.GOMAXPROCS(0), batches) - 1 {
		more.Go(func() {
			runtime.LockOSThread() // never unlocked: the capability ends with the thread
			kernel, err := open()
			if err != nil {
				return // the others do it all
			}
			defer kernel.Close()
			w.do(ctx, &hand{kernel: kernel})
		})
	}
	h := &hand{kernel: kernel}
	w.do(ctx, h)
	more.Wait()
	if o.scanIsCheaper(len(doomed)) {
		o.confirmByScan(h, doomed)
	}
	for _, t := range doomed {
		if t.Result == "" {
			t.conclude(LeftAlone, "interrupted before its turn")
		}
	}
}

// work is what is to be done, shared by those who do it.
type work struct {
	order  *Order
	doomed []*Target
	taken  atomic.Int64 // of doomed
	denied atomic.Bool  // the privilege is missing: no further try
}

// do takes batches until none is left.
func (w *work) do(ctx context.Context, h *hand) {
	for ctx.Err() == nil {
		end := int(w.taken.Add(batch))
		begin := end - batch
		if begin >= len(w.doomed) {
			return
		}
		targets := w.doomed[begin:min(end, len(w.doomed))]
		var told []*Target
		for few := range slices.Chunk(targets, killBatch) {
			if !w.denied.Load() {
				told = append(told, w.destroy(h, w.recheck(h, few))...)
				continue
			}
			for _, t := range few {
				t.conclude(engine.Failed, "not tried: "+unix.EPERM.Error())
			}
		}
		if !w.order.scanIsCheaper(len(w.doomed)) {
			w.order.confirm(h, told)
		}
	}
}

// recheck asks for the targets again, concludes on those that are not any more
// what was selected, and returns the others, of which it knows what they are now.
// The cookie holds the kernel to the socket and not to its state or its traffic:
// what happened to it while this process was stopped, or waited for a processor,
// shows only when it is asked for once more.
func (w *work) recheck(h *hand, targets []*Target) []*Target {
	action.WhileFresh(w.order.now, func() {
		for i := range h.ask(targets) {
			w.order.recheck(targets[i], &h.answers[i])
		}
		targets = Doomed(targets)
	})
	return targets
}

// destroy destroys the targets and returns those that the kernel was told to.
func (w *work) destroy(h *hand, targets []*Target) (told []*Target) {
	if len(targets) == 0 {
		return nil
	}
	// The error of the connection stands in the outcomes that it cost.
	h.outcomes, _ = h.kernel.Destroy(h.idsOf(targets), h.outcomes)
	for i, t := range targets {
		switch err := h.outcomes[i]; {
		case err == nil:
			t.conclude(engine.Done, "")
			told = append(told, t)
		case errors.Is(err, sock.ErrUnconfirmed):
			t.conclude(engine.Unconfirmed, "the kernel's answer was lost")
			told = append(told, t)
		case errors.Is(err, sock.ErrGone):
			t.conclude(engine.Gone, "it ended by itself")
		case errors.Is(err, unix.EPERM):
			w.denied.Store(true)
			fallthrough
		default:
			t.conclude(engine.Failed, err.Error())
		}
	}
	return told
}

// confirm asks whether anything is left of the targets.
func (o *Order) confirm(h *hand, told []*Target) {
	for len(told) > 0 {
		n := min(batch, len(told))
		for i := range h.ask(told[:n]) {
			o.conclude(told[i], &h.answers[i])
		}
		told = told[n:]
	}
}

// lookIsCheaper reports whether one more scan costs less than to ask for each of
// n sockets, as it does where the table holds little else: the first scan, which
// had all of them to tell of, took less than that.
func (o *Order) scanIsCheaper(n int) bool {
	const question = 3 * time.Microsecond
	return o.scanCost < time.Duration(n)*question
}

// confirmByLook scans for what is left. A scan beside which nobody kills, and in
// which a socket is absent that the kernel said to have destroyed, leaves no doubt;
// what it shows, and what the kernel gave no answer about, is asked for.
func (o *Order) confirmByScan(h *hand, doomed []*Target) {
	shown := make(map[uint64]struct{})
	err := h.kernel.Scan(o.Query, func(s *sock.Socket, _ sock.Instant) { shown[s.ID.Cookie] = struct{}{} })
	var doubtful []*Target
	for _, t := range doomed {
		_, there := shown[t.Socket.ID.Cookie]
		if t.Result == engine.Unconfirmed || t.Result == engine.Done && (err != nil || there) {
			doubtful = append(doubtful, t)
		}
	}
	o.confirm(h, doubtful)
}

// hand is one thread's means.
type hand struct {
	kernel   Kernel
	ids      []sock.ID
	answers  []sock.Answer
	outcomes []error
}

// ask asks for the sockets of the targets. The error of the connection stands in
// the answers that it cost.
func (h *hand) ask(targets []*Target) []sock.Answer {
	h.answers, _ = h.kernel.Lookup(h.idsOf(targets), h.answers)
	return h.answers
}

func (h *hand) idsOf(targets []*Target) []sock.ID {
	h.ids = h.ids[:0]
	for _, t := range targets {
		h.ids = append(h.ids, t.Socket.ID)
	}
	return h.ids
}

// conclude takes in what the kernel says of a target after it was told to destroy
// it.
func (o *Order) conclude(t *Target, a *sock.Answer) {
	same, _ := track.SameConnection(&t.Socket, t.got, a, o.Precision)
	switch {
	case a.Err != nil:
		t.conclude(engine.Unconfirmed, "whether it is gone could not be asked: "+a.Err.Error())
	case a.Gone:
		t.conclude(engine.Done, "")
	case same:
		t.conclude(engine.Unconfirmed, "the kernel still shows it")
	}
	// A program can connect a socket anew that was destroyed under it: then done
	// it is, and where the answer was lost it stays unconfirmed.
}
