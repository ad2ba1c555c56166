package node

import (
	"fmt"

	"github.com/sockdog/sockdog/internal/sock"
)

// ScanMPTCP is sockdiag.Conn.ScanMPTCP in all namespaces.
func (x *Scanner) ScanMPTCP(q sock.Query, each func(s *sock.Socket, got sock.Instant)) (known bool, err error) {
	for _, n := range x.source.namespaces() {
		conn, err := n.conn()
		if isLeft(err) {
			continue
		}
		if err == nil {
			known, err = conn.ScanMPTCP(q, func(s *sock.Socket, got sock.Instant) {
				n.name(s)
				each(s, got)
			})
			n.giveBack(conn)
		}
		if err != nil {
			return false, fmt.Errorf("network namespace %d: %w", n.Inode, err)
		}
		if !known {
			return false, nil
		}
	}
	return true, nil
}

// Reads reports whether the last scan has read the namespace with that inode: it is there, and
// no program kept its table locked.
func (x *Scanner) Reads(inode uint32) bool {
	n := x.source.namespace(inode)
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.left && !x.locked[n]
}
