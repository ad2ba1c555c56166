// Package sock is the vocabulary of the daemon: a socket as the kernel shows
// it, what identifies it, when it was seen, and who holds it. It does nothing.
package sock

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"strings"
	"time"

	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Key tells a socket from all others of this boot: the kernel gives a cookie to no
// second socket of a network namespace. Since Linux 5.3 it gives it to none of the host
// (sock_gen_cookie), so what is kept of several namespaces may go by the cookie alone.
type Key struct {
	Netns  uint32 // inode of the network namespace; 0: not known
	Cookie uint64
}

// ID is struct inet_diag_sockid with its family: what a request must carry to
// mean one socket of a network namespace and no other. Addresses and ports are in
// the kernel's own byte order and are sent back verbatim.
type ID struct {
	Family       uint8 // AF_INET or AF_INET6
	SPort, DPort [2]byte
	Src, Dst     [16]byte
	Iface        uint32 // sk_bound_dev_if
	Netns        uint32 // as in Key; no part of a request
	Cookie       uint64
}

// Key is the socket's key.
func (id *ID) Key() Key { return Key{id.Netns, id.Cookie} }

// Local is the address and port on this side, an IPv4-mapped one as IPv4.
func (id *ID) Local() ssfilter.Endpoint { return endpoint(id.Family, &id.Src, id.SPort) }

// Peer is the address and port on the other side.
func (id *ID) Peer() ssfilter.Endpoint { return endpoint(id.Family, &id.Dst, id.DPort) }

func endpoint(family uint8, addr *[16]byte, port [2]byte) ssfilter.Endpoint {
	p := binary.BigEndian.Uint16(port[:])
	if family == afInet {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(addr[:4])), p)
	}
	return netip.AddrPortFrom(netip.AddrFrom16(*addr).Unmap(), p)
}

const afInet = 2 // AF_INET

// Has says which fields of an Info the kernel reported. An older kernel's
// tcp_info is shorter, and a minisocket has none: a missing field is unknown,
// never zero.
type Has uint16

// One bit for each field, or pair of fields, of Info.
const (
	HasUnacked Has = 1 << iota
	HasLastDataSent
	HasLastDataRecv
	HasLastAckRecv
	HasBytesAcked
	HasBytesReceived
	HasSegsIn
	HasNotSent
)

// Info is the part of struct tcp_info that sockdog reads. The Last fields are
// times elapsed at the instant of the answer, with the kernel's resolution of
// one jiffy, and its tick may be late.
type Info struct {
	Has           Has
	Unacked       uint32 // segments sent and not acknowledged
	NotSent       uint32 // bytes queued and never sent
	SegsIn        uint32
	LastDataSent  time.Duration
	LastDataRecv  time.Duration
	LastAckRecv   time.Duration
	BytesAcked    uint64
	BytesReceived uint64
}

// Timers of inet_diag_msg.idiag_timer.
const (
	TimerOff        = 0
	TimerRetransmit = 1
	TimerKeepalive  = 2
	TimerTimeWait   = 3
)

// Socket is one TCP socket as its source reported it.
type Socket struct {
	ssfilter.Conn
	ID      ID
	Timer   uint8
	Retrans uint8
	MPTCP   bool          // a subflow: ULP_INFO "mptcp"
	Expires time.Duration // until Timer fires
	RQueue  uint32        // bytes to read; accept queue length when listening
	WQueue  uint32        // bytes not acknowledged; backlog limit when listening
	UID     uint32
	Inode   uint32 // 0: no descriptor (accept queue, orphan or minisocket)
	Info    Info

	// What the kernel does not tell, and a source knows that saw the socket enter its
	// state:
	Entered Instant // since when it is in that state, exactly; 0: not known
	Unmoved bool    // no byte was acknowledged or received since Entered

	// NetnsNames are the names of its network namespace when it was read (ip-netns(8)),
	// each between slashes, which no name holds: "/" where it has none; "": not known.
	NetnsNames string
}

// MayBeKernels reports whether the kernel itself may hold sockets of that user. Its own (NFS,
// NVMe, DRBD) are made by its threads, and what it took over (iSCSI, NBD) by daemons: all are
// root's, which shows as the overflow user where that has no number here.
func MayBeKernels(uid uint32) bool {
	const overflow = 65534
	return uid == 0 || uid == overflow
}

// NetnsName returns the first name of its network namespace; empty: none is known.
func (s *Socket) NetnsName() string {
	name, _, _ := strings.Cut(strings.TrimPrefix(s.NetnsNames, "/"), "/")
	return name
}

// TimeWaitLen is how long TIME_WAIT lasts.
const TimeWaitLen = ssfilter.TimeWaitLen

// Minisocket reports whether the kernel holds a timewait socket rather than a
// full one: TIME_WAIT and, under timer 3, FIN_WAIT2. These report uid 0 and
// inode 0, which then mean nothing.
func (s *Socket) Minisocket() bool {
	return s.State == ssfilter.TimeWait || s.State == ssfilter.FinWait2 && s.Timer == TimerTimeWait
}

// Holder is one process that holds a descriptor of a socket.
type Holder struct {
	PID   int
	Start uint64 // in clock ticks after boot, to tell it from a later one of its PID; 0: not known
	Comm  string // /proc/PID/comm
	Exe   string // base name of /proc/PID/exe, "" where it cannot be read

	Owner *Owner // where it belonged when it was read; nil: not known
}

// Owner is where a process belongs, and what it was asked to be. Processes share it, and it is never changed.
type Owner struct {
	Unit        Fact // of systemd
	ContainerID Fact // 64 hexadecimal digits
	PodUID      Fact

	Container string // name of the container in its pod; "": not known
	Pod       string // namespace/name of the pod; "": not known

	// CmdlineAsked are the patterns that its command line was compared with, and CmdlineMeets
	// those that it met, by Patterns. The line itself, which may hold secrets, is not kept.
	CmdlineAsked, CmdlineMeets string
}

// UnitName is the name of the unit; "": it is of none, or that is not known.
func (o *Owner) UnitName() string {
	if o == nil {
		return ""
	}
	return o.Unit.Text
}

// shownID is how much of a container's id is shown: as much as other programs show.
const shownID = 12

// ContainerName is the name of the container, or else the beginning of its id; "": it is in
// none, or that is not known.
func (o *Owner) ContainerName() string {
	if o == nil {
		return ""
	}
	return cmp.Or(o.Container, o.ContainerID.Text[:min(len(o.ContainerID.Text), shownID)])
}

// PodName is the name of the pod with its namespace, or else its uid; "": it is in none, or
// that is not known.
func (o *Owner) PodName() string {
	if o == nil {
		return ""
	}
	return cmp.Or(o.Pod, o.PodUID.Text)
}

// Patterns makes one text of several, none of which has a NUL.
func Patterns(all []string) string {
	if len(all) == 0 {
		return ""
	}
	return "\x00" + strings.Join(all, "\x00") + "\x00"
}

// Cmdline reports whether the command line meets a pattern, if that is known.
func (o *Owner) Cmdline(pattern string) (meets, known bool) {
	pattern = "\x00" + pattern + "\x00"
	return strings.Contains(o.CmdlineMeets, pattern), strings.Contains(o.CmdlineAsked, pattern)
}

// Fact is something that a process has or not, if that is known.
type Fact struct {
	Text  string // "": it has none, if Known
	Known bool
}
