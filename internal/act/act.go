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
	Ask(ids []sock.ID, answers []sock.Answer) ([]sock.Answer, error)
	Destroy(ids []sock.ID, outcomes []error) ([]error, error)
}

// Intents keeps the record of what is about to be done, and gives each action
// the Seq that its outcome is to carry.
type Intents interface {
	Intend(actions []engine.Action)
}

const (
	// recordBatch is how many intents are recorded in one write: what a crash leaves
	// in doubt.
	recordBatch = 128
	// KillBatch is how many sockets are asked for, and then destroyed, at once. It is
	// small, since a socket that comes alive between the last answer about it and its
	// destruction dies all the same.
	KillBatch = 16
)

// Killer destroys sockets. It is not for concurrent use.
type Killer struct {
	Kernel  Kernel
	Intents Intents
	// Recheck decides again by the last answer, and says why an action must not be
	// done any more, or "".
	Recheck func(a *engine.Action, answer *sock.Answer) (why string)
	Now     func() sock.Instant
	// Ruled is when the present rules came: what was decided before that is not done.
	Ruled func() sock.Instant

	ids      []sock.ID
	answers  []sock.Answer
	outcomes []error
}

// Do does the actions in their order and returns the outcome of each.
func (k *Killer) Do(actions []engine.Action) []engine.Outcome {
	outcomes := make([]engine.Outcome, len(actions))
	left := outcomes
	for recorded := range slices.Chunk(actions, recordBatch) {
		k.Intents.Intend(recorded)
		for some := range slices.Chunk(recorded, KillBatch) {
			k.kill(some, left[:len(some)])
			left = left[len(some):]
		}
	}
	return outcomes
}

// kill asks for the sockets and destroys those that are still as it was decided.
func (k *Killer) kill(actions []engine.Action, outcomes []engine.Outcome) {
	k.ids = k.ids[:0]
	for i := range actions {
		k.ids = append(k.ids, actions[i].Socket.ID)
	}
	var told []int
	WhileFresh(k.Now, func() {
		k.answers, _ = k.Kernel.Ask(k.ids, k.answers)
		told = told[:0]
		for i := range actions {
			outcomes[i] = k.judge(&actions[i], &k.answers[i])
			if outcomes[i].Err == nil && outcomes[i].Changed == "" {
				told = append(told, i)
			}
		}
	})
	if len(told) == 0 {
		return
	}
	k.ids = k.ids[:0]
	for _, i := range told {
		k.ids = append(k.ids, actions[i].Socket.ID)
	}
	errs, err := k.Kernel.Destroy(k.ids, k.outcomes[:0])
	k.outcomes = errs
	at := k.Now()
	for j, i := range told {
		o := &outcomes[i]
		o.At, o.Err, o.Unsure = at, err, true
		if j < len(errs) {
			o.Err = errs[j]
			o.Gone = errors.Is(o.Err, sock.ErrGone)
			o.Denied = errors.Is(o.Err, unix.EPERM)
			o.Never = o.Denied || errors.Is(o.Err, unix.EOPNOTSUPP)
			o.Unsure = errors.Is(o.Err, sock.ErrUnconfirmed)
		}
	}
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
