package sockdiag

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

const (
	inetDiagReqProtocol = 3 // u32; a protocol whose number is too large for inet_diag_req_v2

	// noProtocol stands where that number would: it is kept free (RFC 3692), so that kernels
	// which do not know the attribute refuse.
	noProtocol = 253
)

// ScanMPTCP is Scan for connections of Multipath TCP: the sockets that programs hold, whose
// subflows Scan shows. Of these the kernel tells here no more than addresses, state, queues and
// inode. The expression is matched in user space. known is false where the kernel has no
// such table, as before Linux 5.9.
func (c *Conn) ScanMPTCP(q sock.Query, each func(s *sock.Socket, got sock.Instant)) (known bool, err error) {
	if err := c.ready(); err != nil {
		return false, fmt.Errorf("scan MPTCP: %w", err)
	}
	c.cgroupNames = c.cgroups.Batch()
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		c.seq++
		c.out = appendMPTCPDump(c.out[:0], c.seq, family, q.States)
		err := c.request(&pass{states: q.States, where: q.Where}, func(s *sock.Socket, got sock.Instant) {
			s.MPTCP = true
			each(s, got)
		})
		switch {
		case lacksProtocol(err):
			return false, nil
		case err != nil:
			return false, fmt.Errorf("scan MPTCP: %w", c.abandon(err))
		}
	}
	return true, nil
}

// lacksProtocol reports whether an error says that the kernel has no table of the protocol,
// which it may say only at the end of the dump.
func lacksProtocol(err error) bool { return refused(err) || errors.Is(err, unix.ENOENT) }

// appendMPTCPDump appends a request for the MPTCP sockets in the given states. It asks for no
// info, which would be a struct mptcp_info.
func appendMPTCPDump(b []byte, seq uint32, family uint8, states ssfilter.StateSet) []byte {
	const sizeofProtocol = unix.SizeofNlAttr + 4
	b = appendHeader(b, nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, seq, sizeofRequestV2+sizeofProtocol)
	b = append(b, family, noProtocol, 0, 0)
	b = native.AppendUint32(b, uint32(states))
	b = appendID(b, &sock.ID{})
	b = native.AppendUint16(b, sizeofProtocol)
	b = native.AppendUint16(b, inetDiagReqProtocol)
	return native.AppendUint32(b, unix.IPPROTO_MPTCP)
}
