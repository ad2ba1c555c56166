package sock

import (
	"errors"

	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Query is what a look asks for. It names the selection and not how the kernel
// is told, so that another source of sockets can answer it.
type Query struct {
	States ssfilter.StateSet
	Where  ssfilter.Expr // nil: every socket in States
}

// Answer is what the kernel said of one socket when asked for it by ID. It was
// true at some instant between Sent and Got.
type Answer struct {
	ID     ID // as asked
	Gone   bool
	Err    error  // the question failed; nothing is known
	Socket Socket // where neither Gone nor Err
	Sent   Instant
	Got    Instant
}

// ErrGone says that there was no such socket any more.
var ErrGone = errors.New("the socket is gone")

// ErrUnanswered says that the kernel was told, and that its answer was lost:
// only a further question can tell what it did.
var ErrUnanswered = errors.New("the kernel's answer was lost")
