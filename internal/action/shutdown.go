package action

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// shutdown is shutdown(2) for both directions on the program's own socket: the peer gets a
// FIN, and the program reads the end of the stream. It is done once the socket has left the
// state that it was in: from CLOSE_WAIT it waits in LAST_ACK for the peer's answer, from
// ESTABLISHED in FIN_WAIT1 and FIN_WAIT2.
var shutdown = &Kind{
	Kind: rules.Shutdown,
	Through: func(fd int, _ *engine.Action) error {
		err := unix.Shutdown(fd, unix.SHUT_RDWR)
		if errors.Is(err, unix.ENOTCONN) {
			return sock.ErrGone
		}
		return err
	},
}
