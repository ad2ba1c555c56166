package action

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/rules"
)

// kill is SOCK_DESTROY: the peer gets a RST, and the program an error at its next system
// call (tcp_abort). Through the program's own descriptor it is connect(2) to AF_UNSPEC,
// which drops the connection in the same way (tcp_disconnect), and leaves the program an
// unconnected socket. That takes neither CAP_NET_ADMIN nor CONFIG_INET_DIAG_DESTROY.
var kill = &Kind{
	Kind:    rules.Kill,
	Do:      func(k Kernel, a *engine.Action) error { return k.Destroy(a.Socket.ID) },
	Through: func(fd int, _ *engine.Action) error { return Disconnect(fd) },
}

// Disconnect drops the connection of a socket.
func Disconnect(fd int) error {
	unspec := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&unspec)), unsafe.Sizeof(unspec))
	if errno != 0 {
		return errno
	}
	return nil
}
