package sockdiag

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Constants of linux/inet_diag.h that package nl lacks.
const (
	tcpdiagGetsock = 18 // TCPDIAG_GETSOCK: inet_diag_req, the first form

	inetDiagReqBytecode = 1

	inetDiagInfo     = 2
	inetDiagMark     = 15 // u32; from a sender with CAP_NET_ADMIN
	inetDiagULPInfo  = 19
	inetDiagCgroupID = 21 // u64; of full sockets
	inetULPInfoName  = 1

	extInfo = 1 << (inetDiagInfo - 1)
)

// Sizes of the structs on the wire.
const (
	sizeofRequestV1 = 60 // inet_diag_req
	sizeofRequestV2 = 56 // inet_diag_req_v2
	sizeofReply     = 72 // inet_diag_msg
)

var native = binary.NativeEndian

// appendDump appends a request for the sockets in the given states; of both
// families if family is AF_UNSPEC, which only the first form of the request can
// ask. Filter is a serialized bytecode attribute or nil.
func appendDump(b []byte, seq uint32, family uint8, states ssfilter.StateSet, filter []byte) []byte {
	const flags = unix.NLM_F_REQUEST | unix.NLM_F_DUMP
	if family == unix.AF_UNSPEC {
		b = appendHeader(b, tcpdiagGetsock, flags, seq, sizeofRequestV1+len(filter))
		b = append(b, family, 0, 0, extInfo)
		b = appendID(b, &sock.ID{})
		b = native.AppendUint32(b, uint32(states))
		b = native.AppendUint32(b, 0) // idiag_dbs, unused
	} else {
		b = appendHeader(b, nl.SOCK_DIAG_BY_FAMILY, flags, seq, sizeofRequestV2+len(filter))
		b = appendBody(b, family, states, &sock.ID{})
	}
	return append(b, filter...)
}

// appendExact appends a request about one socket: SOCK_DIAG_BY_FAMILY asks for
// it, SOCK_DESTROY destroys it.
func appendExact(b []byte, kind, flags uint16, seq uint32, id *sock.ID) []byte {
	b = appendHeader(b, kind, unix.NLM_F_REQUEST|flags, seq, sizeofRequestV2)
	return appendBody(b, id.Family, ^ssfilter.StateSet(0), id)
}

// appendHeader appends a struct nlmsghdr.
func appendHeader(b []byte, kind, flags uint16, seq uint32, body int) []byte {
	b = native.AppendUint32(b, uint32(unix.NLMSG_HDRLEN+body))
	b = native.AppendUint16(b, kind)
	b = native.AppendUint16(b, flags)
	b = native.AppendUint32(b, seq)
	return native.AppendUint32(b, 0) // to the kernel
}

// appendBody appends a struct inet_diag_req_v2.
func appendBody(b []byte, family uint8, states ssfilter.StateSet, id *sock.ID) []byte {
	b = append(b, family, unix.IPPROTO_TCP, extInfo, 0)
	b = native.AppendUint32(b, uint32(states))
	return appendID(b, id)
}

// appendID appends a struct inet_diag_sockid.
func appendID(b []byte, id *sock.ID) []byte {
	b = append(b, id.SPort[:]...)
	b = append(b, id.DPort[:]...)
	b = append(b, id.Src[:]...)
	b = append(b, id.Dst[:]...)
	b = native.AppendUint32(b, id.Iface)
	b = native.AppendUint32(b, uint32(id.Cookie))
	return native.AppendUint32(b, uint32(id.Cookie>>32))
}

var errMalformed = errors.New("malformed message from sock_diag")

// message is one netlink message.
type message struct {
	kind, flags uint16
	seq, port   uint32
	data        []byte
}

// nextMessage takes the first message off a datagram.
func nextMessage(b []byte) (m message, rest []byte, err error) {
	if len(b) < unix.NLMSG_HDRLEN {
		return m, nil, errMalformed
	}
	size := uint64(native.Uint32(b))
	if size < unix.NLMSG_HDRLEN || size > uint64(len(b)) {
		return m, nil, errMalformed
	}
	m = message{
		kind:  native.Uint16(b[4:]),
		flags: native.Uint16(b[6:]),
		seq:   native.Uint32(b[8:]),
		port:  native.Uint32(b[12:]),
		data:  b[unix.NLMSG_HDRLEN:size],
	}
	return m, b[min(align4(int(size)), len(b)):], nil
}

// err reads the error that NLMSG_ERROR and NLMSG_DONE begin with: nil, a unix.Errno or
// errMalformed.
func (m message) err() error {
	if len(m.data) < 4 {
		return errMalformed
	}
	switch code := int32(native.Uint32(m.data)); {
	case code > 0:
		return errMalformed
	case code < 0:
		return unix.Errno(-code)
	}
	return nil
}

// nextAttribute takes the first attribute off a message's tail.
func nextAttribute(b []byte) (kind uint16, value, rest []byte, err error) {
	if len(b) < unix.SizeofNlAttr {
		return 0, nil, nil, errMalformed
	}
	size := int(native.Uint16(b))
	if size < unix.SizeofNlAttr || size > len(b) {
		return 0, nil, nil, errMalformed
	}
	kind = native.Uint16(b[2:]) & nlaTypeMask
	return kind, b[unix.SizeofNlAttr:size], b[min(align4(size), len(b)):], nil
}

// nlaTypeMask takes NLA_F_NESTED and NLA_F_NET_BYTEORDER off an attribute's type.
const nlaTypeMask = 1<<14 - 1

func align4(n int) int { return (n + 3) &^ 3 }

// decode reads a struct inet_diag_msg and its attributes; it skips those that it
// does not know. It returns the id of the socket's cgroup, 0 if the kernel does not
// tell.
func decode(s *sock.Socket, b []byte) (cgroup uint64, err error) {
	if len(b) < sizeofReply {
		return 0, errMalformed
	}
	family := b[0]
	if family != unix.AF_INET && family != unix.AF_INET6 {
		return 0, errMalformed
	}
	*s = sock.Socket{
		ID: sock.ID{
			Family: family,
			SPort:  [2]byte(b[4:]),
			DPort:  [2]byte(b[6:]),
			Src:    [16]byte(b[8:]),
			Dst:    [16]byte(b[24:]),
			Iface:  native.Uint32(b[40:]),
			Cookie: uint64(native.Uint32(b[44:])) | uint64(native.Uint32(b[48:]))<<32,
		},
		Timer:   b[2],
		Retrans: b[3],
		Expires: expires(native.Uint32(b[52:])),
		RQueue:  native.Uint32(b[56:]),
		WQueue:  native.Uint32(b[60:]),
		UID:     native.Uint32(b[64:]),
		Inode:   native.Uint32(b[68:]),
	}
	if s.State = ssfilter.State(b[1]); s.State == ssfilter.Close {
		// Of closed sockets only bound ones are in a table, and the kernel asks for
		// another state than it tells (inet_diag_dump_icsk).
		s.State = ssfilter.BoundInactive
	}
	s.Src, s.Dst = s.ID.Local(), s.ID.Peer()
	s.Iface = s.ID.Iface
	return decodeAttributes(s, b[sizeofReply:])
}

func decodeAttributes(s *sock.Socket, b []byte) (cgroup uint64, err error) {
	for len(b) > 0 {
		var kind uint16
		var value []byte
		if kind, value, b, err = nextAttribute(b); err != nil {
			return 0, err
		}
		switch kind {
		case inetDiagInfo:
			// In a listener's tcp_info the fields mean other things, or nothing.
			if s.State != ssfilter.Listening {
				decodeInfo(&s.Info, value)
			}
		case inetDiagMark:
			if len(value) != 4 {
				return 0, errMalformed
			}
			s.Mark, s.HasMark = native.Uint32(value), true
		case inetDiagCgroupID:
			if len(value) != 8 {
				return 0, errMalformed
			}
			cgroup = native.Uint64(value)
		case inetDiagULPInfo:
			if s.MPTCP, err = isMPTCP(value); err != nil {
				return 0, err
			}
		}
	}
	return cgroup, nil
}

// expires reads idiag_expires. Kernels before 4.20 report a timer that is late as
// a negative number of milliseconds, and jiffies_to_msecs has no sign.
func expires(ms uint32) time.Duration {
	return time.Duration(max(0, int32(ms))) * time.Millisecond
}

// decodeInfo reads a struct tcp_info, which has grown with the kernel: a field
// that an older one does not have stays unknown.
func decodeInfo(info *sock.Info, b []byte) {
	field := func(offset, size int, has sock.Has) uint64 {
		if len(b) < offset+size {
			return 0
		}
		info.Has |= has
		if size == 4 {
			return uint64(native.Uint32(b[offset:]))
		}
		return native.Uint64(b[offset:])
	}
	info.Unacked = uint32(field(24, 4, sock.HasUnacked))
	info.LastDataSent = time.Duration(field(44, 4, sock.HasLastDataSent)) * time.Millisecond
	info.LastDataRecv = time.Duration(field(52, 4, sock.HasLastDataRecv)) * time.Millisecond
	info.LastAckRecv = time.Duration(field(56, 4, sock.HasLastAckRecv)) * time.Millisecond
	info.BytesAcked = field(120, 8, sock.HasBytesAcked)
	info.BytesReceived = field(128, 8, sock.HasBytesReceived)
	info.SegsIn = uint32(field(140, 4, sock.HasSegsIn))
	info.NotSent = uint32(field(144, 4, sock.HasNotSent))
}

// isMPTCP reads INET_DIAG_ULP_INFO, which a subflow of an MPTCP connection
// carries with the name "mptcp". Kernels before 6.14 show it only to a sender
// with CAP_NET_ADMIN, which is what it takes to destroy one, too.
func isMPTCP(b []byte) (bool, error) {
	for len(b) > 0 {
		kind, value, rest, err := nextAttribute(b)
		if err != nil {
			return false, err
		}
		if kind == inetULPInfoName && string(value) == "mptcp\x00" {
			return true, nil
		}
		b = rest
	}
	return false, nil
}
