package action

import (
	"errors"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// kill is SOCK_DESTROY: the peer gets a RST, and the program an error at its next
// system call (tcp_abort).
var kill = &Kind{
	Kind: rules.Kill,
	Do: func(k Kernel, a *engine.Action) error {
		outcomes, err := k.Destroy([]sock.ID{a.Socket.ID}, nil)
		if len(outcomes) > 0 {
			return outcomes[0]
		}
		return errors.Join(sock.ErrUnconfirmed, err) // the connection to the kernel broke
	},
}
