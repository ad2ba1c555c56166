// Package act does what was decided: it writes down the intent, asks the kernel
// for the socket once more, tells it to destroy what is still as it was decided,
// and says how that went.
package act

import (
	"errors"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/sock"
)

// Kernel is the kernel's side: the last question, and SOCK_DESTROY, which returns
// one error for each id: nil where the kernel did it, sock.ErrGone,
// sock.ErrUnconfirmed, or the errno with which it refused.
type Kernel interface {
	Lookup(ids []sock.ID, answers []sock.Answer) ([]sock.Answer, error)
	Destroy(ids []sock.ID, outcomes []error) ([]error, error)
}

// Intents keeps the record of what is about to be done, and gives each action
// the Seq that its outcome is to carry.
type Intents interface {
	Intend(actions []engine.Action)
}

// recordBatch is how many intents are recorded in one write: what a crash leaves in
// doubt.
const recordBatch = 128

// Killer destroys sockets. It is not for concurrent use.
type Killer struct {
	Kernel  Kernel
	Intents Intents
	// Recheck decides again by the last answer, and says why an action must not be
	// done any more, or "".
	Recheck func(a *engine.Action, answer *sock.Answer) (why string)
	Now     func() sock.Instant
	// RulesChanged is when the present rules came: what was decided before that is not done.
	Ruled func() sock.Instant

	ids      []sock.ID
	answers  []sock.Answer
	outcomes []error
}

// Do does the actions in their order and returns the outcome of each. Each socket is
// asked for and destroyed by itself: one that comes alive between the last answer
// about it and its destruction dies all the same.
func (k *Killer) Do(actions []engine.Action) []engine.Outcome {
	outcomes := make([]engine.Outcome, 0, len(actions))
	for recorded := range slices.Chunk(actions, recordBatch) {
		k.Intents.Intend(recorded)
		for i := range recorded {
			outcomes = append(outcomes, k.kill(&recorded[i]))
		}
	}
	return outcomes
}

// kill asks for a socket and destroys it, if it is still as it was decided.
func (k *Killer) kill(a *engine.Action) (o engine.Outcome) {
	k.ids = append(k.ids[:0], a.Socket.ID)
	WhileFresh(k.Now, func() {
		k.answers, _ = k.Kernel.Lookup(k.ids, k.answers)
		o = k.judge(a, &k.answers[0])
	})
	if o.Err != nil || o.Changed != "" {
		return o
	}
	errs, err := k.Kernel.Destroy(k.ids, k.outcomes[:0])
	k.outcomes = errs
	o.At, o.Err, o.Unsure = k.Now(), err, true
	if len(errs) > 0 {
		o.Err = errs[0]
		o.Gone = errors.Is(o.Err, sock.ErrGone)
		o.Denied = errors.Is(o.Err, unix.EPERM)
		o.Never = o.Denied || errors.Is(o.Err, unix.EOPNOTSUPP)
		o.Unsure = errors.Is(o.Err, sock.ErrUnconfirmed)
	}
	return o
}

// judge is the outcome of an action by the last answer about its socket, without
// Err and Changed where it is to be done.
func (k *Killer) judge(a *engine.Action, answer *sock.Answer) engine.Outcome {
	o := engine.Outcome{Act: *a, At: k.Now()}
	switch {
	case answer.Err != nil:
		o.Err = answer.Err // the error of the connection stands in the answers that it cost
	case answer.Gone:
		o.Gone, o.Err = true, sock.ErrGone
	case a.Decided < k.Ruled():
		o.Changed, o.Last = "new rules came first", *answer
	default:
		if o.Changed = k.Recheck(a, answer); o.Changed != "" {
			o.Last = *answer
		}
	}
	return o
}

// freshFor is how long the last question and what is decided by its answers may
// take, at first. Once the process was held up in the middle of that, the answers
// are old.
const freshFor = time.Millisecond

// WhileFresh asks and decides, and does so again as long as it took so long that
// what was answered may no longer be true: the process was stopped, or waited for a
// processor. Each time it allows twice as long, so that on a machine which is
// always that slow the answers are as fresh as they can be there.
func WhileFresh(now func() sock.Instant, ask func()) {
	for limit := freshFor; ; limit *= 2 {
		sent := now()
		ask()
		if now().Sub(sent) <= limit {
			return
		}
	}
}
