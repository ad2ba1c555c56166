package sock

import (
	"errors"

	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Query is what a scan asks for. It names the selection and not how the kernel
// is told, so that another source of sockets can answer it.
type Query struct {
	States ssfilter.StateSet
	Where  ssfilter.Expr // nil: every socket in States
	Fresh  bool          // what a source was told before the scan is not good enough
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

// What a destroy can come to, beside nil and the kernel's errno.
var (
	// ErrGone: the socket was gone already, or another one has its addresses now.
	ErrGone = errors.New("the socket was gone already")

	// ErrUnconfirmed: its destruction was asked for, and the kernel's answer was
	// lost. Only a further question can tell what became of it.
	ErrUnconfirmed = errors.New("the kernel did not confirm that the socket was destroyed")
)
