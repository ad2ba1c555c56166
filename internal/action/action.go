// Package action is what can be done: one file for each kind of action, a table of
// them, and the executor, which records the intent, asks the kernel for the socket
// once more, and does what still stands.
package action

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// Kind describes one kind of action.
type Kind struct {
	*rules.Kind // its name, its options and their checks, whether it is destructive, and which capability it needs

	// Do does it to one socket. The error is the kernel's; it is sock.ErrGone where
	// there was no such socket, and sock.ErrUnconfirmed where its answer was lost. That
	// the socket is gone after a destructive action, the engine sees for itself. Nil:
	// it is done once it is said.
	Do func(k Kernel, a *engine.Action) error
	// Through does it through a duplicate of the descriptor by which a process holds the
	// socket. Nil: it cannot be done that way.
	Through func(fd int, a *engine.Action) error
	// Once does it about a group, and says what it found; ctx ends with the watchdog. The
	// error is sock.ErrGone where there was nothing left to do it to. Nil: it is not about
	// groups, or is done once it is said.
	Once func(ctx context.Context, x *Runner, a *engine.GroupAction) (found string, err error)
	// Undo puts back what it did; nil: nothing is.
	Undo func(x *Runner, a *engine.GroupAction) (found string, err error)
}

// Kinds are the kinds of actions that sockdog knows. A new one is a file of its own
// and a line here.
func Kinds() []*Kind {
	return []*Kind{kill, shutdown, keepalive, alert, execute, signal, setSysctl, log}
}

// AllowedByDefault are the names of those that rules may have where the operator says nothing.
func AllowedByDefault(kinds []*Kind) (names []string) {
	for _, k := range kinds {
		if !k.Explicit {
			names = append(names, k.Name)
		}
	}
	return names
}

// InRules are the kinds as the rules file knows them.
func InRules(kinds []*Kind) []*rules.Kind {
	all := make([]*rules.Kind, len(kinds))
	for i, k := range kinds {
		all[i] = k.Kind
	}
	return all
}

// Kernel is the kernel's side: the last question, and SOCK_DESTROY, whose error is
// sock.ErrGone, sock.ErrUnconfirmed, or the errno with which the kernel refused.
type Kernel interface {
	Lookup(ids []sock.ID, answers []sock.Answer) ([]sock.Answer, error)
	Destroy(id sock.ID) error
}

// Descriptors duplicates the descriptor by which a process holds the socket with that inode
// and cookie, and no other. Its error is sock.ErrNotHeld, sock.ErrRefused or an errno. What
// it remembers of processes it forgets when it is told to.
type Descriptors interface {
	Open(h *sock.Holder, inode uint32, cookie uint64) (fd int, err error)
	Forget()
}

// Intents keeps the record of what is about to be done, and gives each action
// the Seq that its outcome is to carry.
type Intents interface {
	Intend(actions []engine.Action)
}

// recordBatch is how many intents are recorded in one write: what a crash leaves in
// doubt.
const recordBatch = 128

// Executor does actions. It is not for concurrent use.
type Executor struct {
	Kinds       []*Kind
	Kernel      Kernel
	Descriptors Descriptors // nil: none can be duplicated
	Intents     Intents
	// Recheck decides again by the last answer, and says why an action must not be
	// done any more, or "".
	Recheck func(a *engine.Action, answer *sock.Answer) match.Reason
	Now     func() sock.Instant
	// RulesChanged is when the present rules came: what was decided before that is not done.
	RulesChanged func() sock.Instant
	Paused       func() bool // nothing more is done for now

	ids     []sock.ID
	answers []sock.Answer
}

// Do does the actions in their order and returns the outcome of each. Each socket is
// asked for and destroyed by itself: one that comes alive between the last answer
// about it and its destruction dies all the same.
func (x *Executor) Do(actions []engine.Action) []engine.Outcome {
	outcomes := make([]engine.Outcome, 0, len(actions))
	for recorded := range slices.Chunk(actions, recordBatch) {
		x.Intents.Intend(recorded)
		for i := range recorded {
			outcomes = append(outcomes, x.do(&recorded[i]))
		}
	}
	if x.Descriptors != nil {
		x.Descriptors.Forget()
	}
	return outcomes
}

// do asks for a socket and does the action to it, if it is still as it was decided. The way
// through who holds it is opened first: that may take long, and the answer is to be fresh.
func (x *Executor) do(a *engine.Action) (o engine.Outcome) {
	fd, closed := -1, error(nil)
	if a.Via == rules.ViaHolder {
		if fd, closed = x.duplicate(a); closed == nil {
			defer unix.Close(fd)
		}
	}
	x.ids = append(x.ids[:0], a.Socket.ID)
	WhileFresh(x.Now, func() {
		x.answers, _ = x.Kernel.Lookup(x.ids, x.answers)
		o = x.judge(a, &x.answers[0])
	})
	if o.Err != nil || o.Changed != "" {
		return o
	}
	i := slices.IndexFunc(x.Kinds, func(k *Kind) bool { return k.Kind == a.Kind })
	switch {
	case i < 0:
		o.Err, o.Never = fmt.Errorf("nothing here does %s", a.Kind), true
		return o
	case closed != nil:
		o.Err = closed
	case a.Via == rules.ViaHolder:
		o.Err = x.Kinds[i].Through(fd, &o.Act)
	default:
		o.Err = x.Kinds[i].Do(x.Kernel, &o.Act)
	}
	o.At = x.Now()
	if errors.Is(o.Err, sock.ErrNotHeld) {
		o.Changed, o.Last, o.Err = match.HolderChanged, x.answers[0], nil
	}
	o.Gone = errors.Is(o.Err, sock.ErrGone)
	o.Refused = errors.Is(o.Err, sock.ErrRefused)
	o.Denied = a.Via != rules.ViaHolder && errors.Is(o.Err, unix.EPERM)
	o.Never = o.Denied || errors.Is(o.Err, unix.EOPNOTSUPP) || errors.Is(o.Err, unix.ENOSYS)
	o.Unsure = errors.Is(o.Err, sock.ErrUnconfirmed)
	return o
}

// duplicate duplicates the descriptor of the socket that one of its holders has: of the
// first that lets it. Of errors, a refusal tells most.
func (x *Executor) duplicate(a *engine.Action) (fd int, err error) {
	if x.Descriptors == nil {
		return -1, unix.ENOSYS
	}
	err = sock.ErrNotHeld
	for i := range a.Holders {
		fd, failed := x.Descriptors.Open(&a.Holders[i], a.Socket.Inode, a.Socket.ID.Cookie)
		if failed == nil {
			return fd, nil
		}
		if !errors.Is(err, sock.ErrRefused) {
			err = failed
		}
	}
	return -1, err
}

// judge is the outcome of an action by the last answer about its socket, without
// Err and Changed where it is to be done.
func (x *Executor) judge(a *engine.Action, answer *sock.Answer) engine.Outcome {
	o := engine.Outcome{Act: *a, At: x.Now()}
	switch {
	case answer.Err != nil:
		o.Err = answer.Err // the error of the connection stands in the answers that it cost
	case answer.Gone:
		o.Gone, o.Err = true, sock.ErrGone
	case a.Decided < x.RulesChanged():
		o.Changed, o.Last = match.NewRules, *answer
	case x.Paused():
		o.Changed, o.Last = match.Paused, *answer
	default:
		if o.Changed = x.Recheck(a, answer); o.Changed != "" {
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
