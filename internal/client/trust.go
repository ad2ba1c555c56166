package client

import (
	"fmt"
	"os"
	"slices"

	"github.com/sockdog/sockdog/internal/holders"
	"github.com/sockdog/sockdog/internal/host"
	"github.com/sockdog/sockdog/internal/sock"
)

// trustHolder says whether to believe who holds a socket. Who lies about ages may
// have a person kill what is in use: it must be somebody who needs no person for
// that, be it root, the user who asks, or a process that could destroy these
// sockets itself.
func trustHolder(address string, s *sock.Socket) error {
	switch {
	case s.Inode == 0:
		return fmt.Errorf("cannot find out who runs the sockdog on %s: it has closed the connection", address)
	case s.UID == 0 || s.UID == uint32(os.Geteuid()):
		return nil
	}
	found, err := holders.Find(host.ProcRoot, map[uint32]struct{}{s.Inode: {}})
	held := found.Holders[s.Inode]
	stranger := func(o sock.Holder) bool { return !host.MayKill(o.PID, s.UID) }
	if err != nil || len(held) == 0 || slices.ContainsFunc(held, stranger) {
		return fmt.Errorf("the ages from %s are not believed: user %d runs what listens there, is neither root nor you, and is not seen to have CAP_NET_ADMIN (root can see more)", address, s.UID)
	}
	return nil
}
