package action

import (
	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/rules"
)

// kill is SOCK_DESTROY: the peer gets a RST, and the program an error at its next
// system call (tcp_abort).
var kill = &Kind{
	Kind: rules.Kill,
	Do:   func(k Kernel, a *engine.Action) error { return k.Destroy(a.Socket.ID) },
}
