// Package act does what was decided, and reconsiders nothing: it writes down
// the intent, tells the kernel, and says how that went.
package act

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/sock"
)

// Destroyer is the kernel's side of SOCK_DESTROY. It returns one error for each
// id: nil where the kernel did it, sock.ErrGone, sock.ErrUnconfirmed, or the errno
// with which it refused.
type Destroyer interface {
	Destroy(ids []sock.ID, outcomes []error) ([]error, error)
}

// Intents keeps the record of what is about to be done, and gives each action
// the Seq that its outcome is to carry.
type Intents interface {
	Intend(actions []engine.Action)
}

// batch is how many sockets are destroyed between a record of intents and the
// next: what a crash leaves in doubt.
const batch = 128

// Killer destroys sockets. It is not for concurrent use.
type Killer struct {
	kernel   Destroyer
	intents  Intents
	now      func() sock.Instant
	ids      []sock.ID
	outcomes []error
}

// New returns a Killer that tells kernel, after intents.
func New(kernel Destroyer, intents Intents, now func() sock.Instant) *Killer {
	return &Killer{kernel: kernel, intents: intents, now: now}
}

// Do does the actions in their order and returns the outcome of each.
func (k *Killer) Do(actions []engine.Action) []engine.Outcome {
	outcomes := make([]engine.Outcome, 0, len(actions))
	for len(actions) > 0 {
		n := min(batch, len(actions))
		outcomes = k.destroy(actions[:n], outcomes)
		actions = actions[n:]
	}
	return outcomes
}

func (k *Killer) destroy(actions []engine.Action, outcomes []engine.Outcome) []engine.Outcome {
	k.intents.Intend(actions)
	if waited := k.now().Sub(actions[0].Decided); waited > freshFor {
		return tooLate(actions, waited, k.now(), outcomes)
	}
	k.ids = k.ids[:0]
	for i := range actions {
		k.ids = append(k.ids, actions[i].Socket.ID)
	}
	errs, err := k.kernel.Destroy(k.ids, k.outcomes[:0])
	k.outcomes = errs
	at := k.now()
	for i := range actions {
		o := engine.Outcome{Act: actions[i], Err: err, At: at, Unsure: true}
		if i < len(errs) {
			o.Err = errs[i]
			o.Gone = errors.Is(o.Err, sock.ErrGone)
			o.Denied = errors.Is(o.Err, unix.EPERM)
			o.Never = o.Denied || errors.Is(o.Err, unix.EOPNOTSUPP)
			o.Unsure = errors.Is(o.Err, sock.ErrUnconfirmed)
		}
		outcomes = append(outcomes, o)
	}
	return outcomes
}

// freshFor is how long ago an act may have been decided. The cookie holds the
// kernel to the socket and not to the connection: one that the program made
// anew while the disk took its time over the intent would die for the old one.
const freshFor = 250 * time.Millisecond

// tooLate has everything about the actions asked and decided afresh.
func tooLate(actions []engine.Action, waited time.Duration, at sock.Instant, outcomes []engine.Outcome) []engine.Outcome {
	err := fmt.Errorf("not done, as the decision was %v old when its record was written", waited.Round(time.Millisecond))
	for i := range actions {
		outcomes = append(outcomes, engine.Outcome{Act: actions[i], Err: err, Stale: true, At: at})
	}
	return outcomes
}
