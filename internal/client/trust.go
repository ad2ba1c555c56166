package client

import (
	"fmt"
	"os"

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
		return fmt.Errorf("whose the sockdog on %s is cannot be seen: it has closed the connection", address)
	case s.UID == 0 || s.UID == uint32(os.Geteuid()):
		return nil
	}
	found, err := holders.Find(host.ProcRoot, map[uint32]struct{}{s.Inode: {}})
	held := found.Holders[s.Inode]
	trusted := err == nil && len(held) > 0
	for _, o := range held {
		trusted = trusted && host.MayKill(o.PID, s.UID)
	}
	if !trusted {
		return fmt.Errorf("what listens on %s belongs to user %d, who is neither root nor you, and is not seen to hold CAP_NET_ADMIN: what it says of ages is not believed (root can see more)", address, s.UID)
	}
	return nil
}
