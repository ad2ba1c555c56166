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
	Known  Freshness     // how old what a source was told of a socket may be
}

// A Freshness is how old what a source was told of a socket may be, to show it in a scan.
// That a socket is there, and its state, are always those of the scan.
type Freshness uint8

const (
	Recently Freshness = iota // about half a minute, for most
	Now                       // it was told during the scan
	Ever                      // any age will do: only the state counts
)

// Answer is what the kernel said of one socket when asked for it by ID. It was
// true at some instant between Sent and Got.
type Answer struct {
	ID     ID     // as asked
	Gone   bool   // no socket with the cookie is connected
	Err    error  // the question failed; nothing is known
	Socket Socket // where neither Gone nor Err
	Sent   Instant
	Got    Instant
}

// What an act on a socket can come to, beside nil and the kernel's errno.
var (
	// ErrGone: the socket was gone already, or another one has its addresses now.
	ErrGone = errors.New("the socket was gone already")

	// ErrUnconfirmed: its destruction was asked for, and the kernel's answer was
	// lost. Only a further question can tell what became of it.
	ErrUnconfirmed = errors.New("the kernel did not confirm that the socket was destroyed")

	// ErrNotHeld: the process does not hold the socket any more.
	ErrNotHeld = errors.New("the process does not hold the socket any more")

	// ErrRefused: the kernel does not let this process use the descriptors of that one.
	ErrRefused = errors.New("its descriptors may not be duplicated")
)
