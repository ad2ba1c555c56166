package sockdiag

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// The tests in this file put a peer of their own, at the level of bytes, in the
// kernel's place: for what a kernel does on a bad day, and what older ones do.

const fakePort = 4711

// fakeLink answers each send with what its function returns for it: datagrams
// and errors, one for each recv. When they are used up it has no more answer; nil
// fails the send.
type fakeLink struct {
	answer  func(kind uint16, seq uint32) []any
	waiting []any
	closed  bool
}

var errSilence = errors.New("no answer")

func (f *fakeLink) port() uint32  { return fakePort }
func (f *fakeLink) netns() uint32 { return 0 }
func (f *fakeLink) batch() int    { return 4 }
func (f *fakeLink) close() error  { f.closed = true; return nil }

func (f *fakeLink) deviceNames(index uint32) (name, altNames string) {
	return fmt.Sprint("dev", index), ""
}

func (f *fakeLink) deviceIndex(name string) (uint32, bool) {
	var index uint32
	n, _ := fmt.Sscanf(name, "dev%d", &index)
	return index, n == 1
}

func (f *fakeLink) send(b []byte) error {
	m, _, err := nextMessage(b)
	if err != nil {
		return err
	}
	f.waiting = f.answer(m.kind, m.seq)
	if f.waiting == nil {
		return errSend
	}
	return nil
}

var errSend = errors.New("send fails")

func (f *fakeLink) recv(b []byte) (int, error) {
	if len(f.waiting) == 0 {
		return 0, errSilence
	}
	next := f.waiting[0]
	f.waiting = f.waiting[1:]
	if err, ok := next.(error); ok {
		return 0, err
	}
	copy(b, next.([]byte))
	return len(next.([]byte)), nil
}

// openFake opens a Conn whose every link answers by the next function, the last
// one from then on.
func openFake(t testing.TB, answers ...func(kind uint16, seq uint32) []any) (*Conn, *[]*fakeLink) {
	var links []*fakeLink
	var now sock.Instant
	clock := func() sock.Instant { now++; return now }
	c, err := open(clock, nil, func() (link, error) {
		l := &fakeLink{answer: answers[min(len(links), len(answers)-1)]}
		links = append(links, l)
		return l, nil
	})
	check(t, err)
	return c, &links
}

// datagram concatenates messages.
func datagram(messages ...[]byte) []byte { return slices.Concat(messages...) }

func netlinkMessage(kind, flags uint16, seq uint32, body []byte) []byte {
	b := appendHeader(nil, kind, flags, seq, len(body))
	native.PutUint32(b[12:], fakePort)
	b = append(b, body...)
	return append(b, make([]byte, align4(len(b))-len(b))...)
}

func doneMessage(seq uint32) []byte {
	return netlinkMessage(unix.NLMSG_DONE, unix.NLM_F_MULTI, seq, make([]byte, 4))
}

func errorMessage(seq uint32, errno unix.Errno) []byte {
	return netlinkMessage(unix.NLMSG_ERROR, 0, seq, native.AppendUint32(nil, uint32(-int32(errno))))
}

// socketMessage is an IPv4 socket in CLOSE_WAIT with the given port and
// attributes.
func socketMessage(kind uint16, seq uint32, port uint16, attributes ...[]byte) []byte {
	b := []byte{unix.AF_INET, byte(ssfilter.CloseWait), sock.TimerKeepalive, 3}
	b = appendID(b, fakeID(port))
	for _, field := range []uint32{1500, 1, 2, 1000, 99} { // expires, rqueue, wqueue, uid, inode
		b = native.AppendUint32(b, field)
	}
	return netlinkMessage(kind, 0, seq, append(b, slices.Concat(attributes...)...))
}

func fakeID(port uint16) *sock.ID {
	return &sock.ID{
		Family: unix.AF_INET,
		SPort:  [2]byte{byte(port >> 8), byte(port)},
		DPort:  [2]byte{0, 80},
		Src:    [16]byte{10, 0, 0, 1},
		Dst:    [16]byte{10, 0, 0, 2},
		Iface:  7,
		Cookie: 1<<32 | uint64(port),
	}
}

func attribute(kind uint16, value []byte) []byte {
	b := native.AppendUint16(nil, uint16(unix.SizeofNlAttr+len(value)))
	b = native.AppendUint16(b, kind)
	b = append(b, value...)
	return append(b, make([]byte, align4(len(b))-len(b))...)
}

// tcpInfo is a struct tcp_info of the given length in which each u32 holds its
// own offset.
func tcpInfo(size int) []byte {
	var b []byte
	for len(b) < size {
		b = native.AppendUint32(b, uint32(len(b)))
	}
	return b[:size]
}

var closeWaits = sock.Query{States: ssfilter.Of(ssfilter.CloseWait)}

func ports(c *Conn, q sock.Query) (seen []uint16, err error) {
	err = c.Scan(q, func(s *sock.Socket, _ sock.Instant) { seen = append(seen, s.Src.Port()) })
	return seen, err
}

func TestScanIsWholeOrAnError(t *testing.T) {
	whole := func(kind uint16, seq uint32) []any {
		return []any{datagram(socketMessage(kind, seq, 1), socketMessage(kind, seq, 2)), datagram(socketMessage(kind, seq, 3), doneMessage(seq))}
	}
	cut := func(b []byte, at int) []byte { return b[:at] }
	tests := map[string]struct {
		answer func(kind uint16, seq uint32) []any
		want   error // nil: whole
	}{
		"whole": {whole, nil},
		"done in a datagram of its own": {func(kind uint16, seq uint32) []any {
			return []any{socketMessage(kind, seq, 1), socketMessage(kind, seq, 2), socketMessage(kind, seq, 3), doneMessage(seq)}
		}, nil},
		"a no-op is no answer": {func(kind uint16, seq uint32) []any {
			return append([]any{netlinkMessage(unix.NLMSG_NOOP, 0, seq, nil)}, whole(kind, seq)...)
		}, nil},
		"no done": {func(kind uint16, seq uint32) []any {
			return []any{socketMessage(kind, seq, 1)}
		}, errSilence},
		"nothing at all": {func(kind uint16, seq uint32) []any { return []any{} }, errSilence},
		"interrupted": {func(kind uint16, seq uint32) []any {
			m := socketMessage(kind, seq, 1)
			native.PutUint16(m[6:], unix.NLM_F_MULTI|unix.NLM_F_DUMP_INTR)
			return []any{m, doneMessage(seq)}
		}, errInterrupted},
		"interrupted at the end": {func(kind uint16, seq uint32) []any {
			m := doneMessage(seq)
			native.PutUint16(m[6:], unix.NLM_F_MULTI|unix.NLM_F_DUMP_INTR)
			return []any{socketMessage(kind, seq, 1), m}
		}, errInterrupted},
		"no buffer space": {func(kind uint16, seq uint32) []any {
			return []any{socketMessage(kind, seq, 1), unix.ENOBUFS, doneMessage(seq)}
		}, unix.ENOBUFS},
		"datagram larger than the buffer": {func(kind uint16, seq uint32) []any {
			return []any{append(socketMessage(kind, seq, 1), make([]byte, maxDatagram)...), doneMessage(seq)}
		}, errTruncated},
		"overrun": {func(kind uint16, seq uint32) []any {
			return []any{netlinkMessage(unix.NLMSG_OVERRUN, 0, seq, nil), doneMessage(seq)}
		}, errOverrun},
		"fails midway": {func(kind uint16, seq uint32) []any {
			return []any{socketMessage(kind, seq, 1), errorMessage(seq, unix.ENOMEM)}
		}, unix.ENOMEM},
		"refused midway": {func(kind uint16, seq uint32) []any {
			return []any{socketMessage(kind, seq, 1), errorMessage(seq, unix.EINVAL)}
		}, unix.EINVAL},
		"busy": {func(kind uint16, seq uint32) []any {
			return []any{errorMessage(seq, unix.EBUSY)}
		}, unix.EBUSY},
		"done with an error": {func(kind uint16, seq uint32) []any {
			m := errorMessage(seq, unix.ENOMEM)
			native.PutUint16(m[4:], unix.NLMSG_DONE)
			return []any{socketMessage(kind, seq, 1), m}
		}, unix.ENOMEM},
		"done without its code": {func(kind uint16, seq uint32) []any {
			return []any{netlinkMessage(unix.NLMSG_DONE, 0, seq, nil)}
		}, errMalformed},
		"acknowledged instead of answered": {func(kind uint16, seq uint32) []any {
			return []any{errorMessage(seq, 0)}
		}, errMalformed},
		"answer to an earlier request": {func(kind uint16, seq uint32) []any {
			return []any{socketMessage(kind, seq-1, 1), doneMessage(seq)}
		}, errStray},
		"answer to a later request": {func(kind uint16, seq uint32) []any {
			return []any{socketMessage(kind, seq, 1), doneMessage(seq + 1)}
		}, errStray},
		"answer to another socket": {func(kind uint16, seq uint32) []any {
			m := socketMessage(kind, seq, 1)
			native.PutUint32(m[12:], fakePort+1)
			return []any{m, doneMessage(seq)}
		}, errStray},
		"answer of another type": {func(kind uint16, seq uint32) []any {
			return []any{socketMessage(kind+1, seq, 1), doneMessage(seq)}
		}, errMalformed},
		"empty datagram": {func(kind uint16, seq uint32) []any {
			return []any{[]byte{}, doneMessage(seq)}
		}, errMalformed},
		"half a header": {func(kind uint16, seq uint32) []any {
			return []any{cut(doneMessage(seq), 8)}
		}, errMalformed},
		"length beyond the datagram": {func(kind uint16, seq uint32) []any {
			return []any{cut(socketMessage(kind, seq, 1), 40), doneMessage(seq)}
		}, errMalformed},
		"length below the header's": {func(kind uint16, seq uint32) []any {
			m := socketMessage(kind, seq, 1)
			native.PutUint32(m, 8)
			return []any{m, doneMessage(seq)}
		}, errMalformed},
		"socket too short": {func(kind uint16, seq uint32) []any {
			return []any{netlinkMessage(kind, 0, seq, []byte{unix.AF_INET, 8, 0, 0}), doneMessage(seq)}
		}, errMalformed},
		"attribute beyond the message": {func(kind uint16, seq uint32) []any {
			a := attribute(inetDiagInfo, make([]byte, 8))
			native.PutUint16(a, 64)
			return []any{socketMessage(kind, seq, 1, a), doneMessage(seq)}
		}, errMalformed},
		"attribute without a length": {func(kind uint16, seq uint32) []any {
			return []any{socketMessage(kind, seq, 1, make([]byte, 8)), doneMessage(seq)}
		}, errMalformed},
		"send fails": {func(uint16, uint32) []any { return nil }, errSend},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c, links := openFake(t, tt.answer, whole)
			seen, err := ports(c, closeWaits)
			if !errors.Is(err, tt.want) {
				t.Fatalf("error %v, want %v", err, tt.want)
			}
			if err != nil {
				// Nothing of the failed one may mix into the next.
				if !(*links)[0].closed {
					t.Error("the link of a failed look is still open")
				}
				if seen, err = ports(c, closeWaits); err != nil {
					t.Fatalf("the next scan: %v", err)
				}
			}
			if diff := cmp.Diff([]uint16{1, 2, 3}, seen); diff != "" {
				t.Errorf("sockets (-want +got):\n%s", diff)
			}
		})
	}
}

// A kernel whose answer is no selection at all does not widen a scan.
func TestScanSelectsAgain(t *testing.T) {
	c, _ := openFake(t, func(kind uint16, seq uint32) []any {
		other := socketMessage(kind, seq, 3)
		other[unix.NLMSG_HDRLEN+1] = byte(ssfilter.Established)
		return []any{datagram(socketMessage(kind, seq, 1), socketMessage(kind, seq, 2), other, doneMessage(seq))}
	})
	where := must(ssfilter.ParseExpr("sport = :2 or sport = :3"))(t)
	seen, err := ports(c, sock.Query{States: closeWaits.States, Where: where})
	check(t, err)
	if diff := cmp.Diff([]uint16{2}, seen); diff != "" {
		t.Errorf("sockets (-want +got):\n%s", diff)
	}
}

func TestFallbacks(t *testing.T) {
	const v1, v2 = tcpdiagGetsock, nl.SOCK_DIAG_BY_FAMILY
	tests := map[string]struct {
		where  ssfilter.Expr // nil: dport = :80
		refuse func(kind uint16, filter []byte) unix.Errno
		want   []request
		again  []request // by a second scan
		why    string    // what InUserSpace says
	}{
		"none needed": {
			refuse: func(uint16, []byte) unix.Errno { return 0 },
			want:   []request{{v1, 0, true}},
			again:  []request{{v1, 0, true}},
		},
		"no bytecode": {
			refuse: noBytecode,
			want:   []request{{v1, 0, true}, {v1, 0, false}},
			again:  []request{{v1, 0, true}, {v1, 0, false}},
			why:    "the kernel refuses the filter: operation not permitted",
		},
		"some bytecode": {
			where: expr(t, "( dport = :80 and fwmark = 5 ) or ( dport = :80 and src 10.0.0.1 )"),
			refuse: func(_ uint16, filter []byte) unix.Errno {
				if slices.Contains(operations(filter), markCond) {
					return unix.EPERM
				}
				return 0
			},
			want:  []request{{v1, 0, true}, {v1, 0, true}},
			again: []request{{v1, 0, true}, {v1, 0, true}},
			why:   "the kernel refuses the filter: operation not permitted",
		},
		"too large": {
			where:  manyPorts,
			refuse: func(uint16, []byte) unix.Errno { return 0 },
			want:   []request{{v1, 0, true}},
			again:  []request{{v1, 0, true}},
			why:    "the filter is too large for the kernel",
		},
		"too large, and no bytecode": {
			where:  manyPorts,
			refuse: noBytecode,
			want:   []request{{v1, 0, true}, {v1, 0, false}},
			again:  []request{{v1, 0, true}, {v1, 0, false}},
			why:    "the filter is too large for the kernel",
		},
		"too large, and no ports": {
			where:  ssfilter.Or(manyPorts, expr(t, "src 10.0.0.1")),
			refuse: func(uint16, []byte) unix.Errno { return 0 },
			want:   []request{{v1, 0, false}},
			again:  []request{{v1, 0, false}},
			why:    "the filter is too large for the kernel",
		},
		"autobound": {
			where:  expr(t, "autobound"),
			refuse: func(uint16, []byte) unix.Errno { return 0 },
			want:   []request{{v1, 0, true}, {v1, 0, true}},
			again:  []request{{v1, 0, true}, {v1, 0, true}},
		},
		"autobound, a walk of each family": {
			where: expr(t, "not autobound"),
			refuse: func(kind uint16, _ []byte) unix.Errno {
				if kind == v1 {
					return unix.EOPNOTSUPP
				}
				return 0
			},
			want: []request{{v1, 0, true}, {v1, 0, true}, {v1, 0, false},
				{v2, unix.AF_INET, true}, {v2, unix.AF_INET, true}, {v2, unix.AF_INET6, true}, {v2, unix.AF_INET6, true}},
			again: []request{{v2, unix.AF_INET, true}, {v2, unix.AF_INET, true}, {v2, unix.AF_INET6, true}, {v2, unix.AF_INET6, true}},
		},
		"autobound, and no bytecode": {
			where:  expr(t, "autobound or dport = :80"),
			refuse: noBytecode,
			want:   []request{{v1, 0, true}, {v1, 0, true}, {v1, 0, false}},
			again:  []request{{v1, 0, true}, {v1, 0, true}, {v1, 0, false}},
			why:    "the kernel refuses the filter: operation not permitted",
		},
		"autobound, and marks that are not to be had": {
			where: expr(t, "( autobound and fwmark = 5 ) or dport = :80"),
			refuse: func(_ uint16, filter []byte) unix.Errno {
				if slices.Contains(operations(filter), markCond) {
					return unix.EPERM
				}
				return 0
			},
			want:  []request{{v1, 0, true}, {v1, 0, true}, {v1, 0, true}, {v1, 0, true}},
			again: []request{{v1, 0, true}, {v1, 0, true}, {v1, 0, true}, {v1, 0, true}},
			why:   "the kernel refuses the filter: operation not permitted",
		},
		"no first form": {
			refuse: func(kind uint16, _ []byte) unix.Errno {
				if kind == v1 {
					return unix.EOPNOTSUPP
				}
				return 0
			},
			want:  []request{{v1, 0, true}, {v1, 0, false}, {v2, unix.AF_INET, true}, {v2, unix.AF_INET6, true}},
			again: []request{{v2, unix.AF_INET, true}, {v2, unix.AF_INET6, true}},
		},
		"neither": {
			refuse: func(kind uint16, filter []byte) unix.Errno {
				if kind == v1 || filter != nil {
					return unix.EINVAL
				}
				return 0
			},
			want:  []request{{v1, 0, true}, {v1, 0, false}, {v2, unix.AF_INET, true}, {v2, unix.AF_INET, false}, {v2, unix.AF_INET6, true}, {v2, unix.AF_INET6, false}},
			again: []request{{v2, unix.AF_INET, true}, {v2, unix.AF_INET, false}, {v2, unix.AF_INET6, true}, {v2, unix.AF_INET6, false}},
			why:   "the kernel refuses the filter: invalid argument",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			l := &refusingLink{refuse: tt.refuse}
			c, err := open(func() sock.Instant { return 1 }, nil, func() (link, error) { return l, nil })
			check(t, err)
			q := sock.Query{States: closeWaits.States, Where: tt.where}
			if q.Where == nil {
				q.Where = expr(t, "dport = :80")
			}
			for _, want := range [][]request{tt.want, tt.again} {
				l.requests = nil
				seen, err := ports(c, q)
				check(t, err)
				if diff := cmp.Diff(want, l.requests, cmp.AllowUnexported(request{})); diff != "" {
					t.Errorf("requests (-want +got):\n%s", diff)
				}
				if len(seen) == 0 {
					t.Error("no sockets")
				}
				if got := c.InUserSpace(); got != tt.why {
					t.Errorf("in user space because %q, want %q", got, tt.why)
				}
			}
			if l.closed {
				t.Error("a refusal is an answer in full, and its link was given up")
			}
		})
	}

	t.Run("everything is refused", func(t *testing.T) {
		l := &refusingLink{refuse: func(uint16, []byte) unix.Errno { return unix.EACCES }}
		c, err := open(func() sock.Instant { return 1 }, nil, func() (link, error) { return l, nil })
		check(t, err)
		if _, err := ports(c, closeWaits); !errors.Is(err, unix.EACCES) {
			t.Errorf("error %v, want %v", err, unix.EACCES)
		}
		if c.perFamily {
			t.Error("remembered a form that was refused as well")
		}
	})

	// Then what the first half told must not count.
	t.Run("half of an answer is refused", func(t *testing.T) {
		asked := 0
		l := &refusingLink{refuse: func(uint16, []byte) unix.Errno {
			if asked++; asked == 1 {
				return 0
			}
			return unix.EPERM
		}}
		c, err := open(func() sock.Instant { return 1 }, nil, func() (link, error) { return l, nil })
		check(t, err)
		q := sock.Query{States: closeWaits.States, Where: ssfilter.Autobound()}
		if seen, err := ports(c, q); err == nil || refused(err) {
			t.Errorf("%d sockets, error %v, want one that is final", len(seen), err)
		}
		if slices.ContainsFunc(l.requests, func(r request) bool { return !r.filter }) {
			t.Errorf("requests %+v, want none for all sockets", l.requests)
		}
	})
}

// manyPorts is an expression whose program is too large.
var manyPorts = func() ssfilter.Expr {
	ranges := []ssfilter.PortRange{{First: 80, Last: 80}}
	for port := uint16(101); port < 10101; port += 2 {
		ranges = append(ranges, ssfilter.PortRange{First: port, Last: port})
	}
	return ssfilter.Ports(ssfilter.Dst, ranges...)
}()

func expr(t testing.TB, text string) ssfilter.Expr {
	t.Helper()
	return must(ssfilter.ParseExpr(text))(t)
}

func noBytecode(_ uint16, filter []byte) unix.Errno {
	if filter != nil {
		return unix.EPERM
	}
	return 0
}

// markCond is INET_DIAG_BC_MARK_COND.
const markCond = 10

// operations are the codes of the operations in a filter.
func operations(filter []byte) (codes []byte) {
	if len(filter) == 0 {
		return nil
	}
	for program := filter[unix.SizeofNlAttr:]; len(program) > 0; program = program[program[1]:] {
		codes = append(codes, program[0])
	}
	return codes
}

type request struct {
	kind   uint16
	family uint8
	filter bool
}

// refusingLink is a kernel that does not know every form of request.
type refusingLink struct {
	fakeLink
	refuse   func(kind uint16, filter []byte) unix.Errno
	requests []request

	attributes [][]byte // of the socket that it answers with
}

func (l *refusingLink) send(b []byte) error {
	m, _, err := nextMessage(b)
	if err != nil {
		return err
	}
	plain := sizeofRequestV2
	if m.kind == tcpdiagGetsock {
		plain = sizeofRequestV1
	}
	var filter []byte
	if len(m.data) > plain {
		filter = m.data[plain:]
	}
	r := request{m.kind, m.data[0], filter != nil}
	l.requests = append(l.requests, r)
	if errno := l.refuse(r.kind, filter); errno != 0 {
		l.waiting = []any{errorMessage(m.seq, errno)}
	} else {
		l.waiting = []any{datagram(socketMessage(m.kind, m.seq, 1, l.attributes...), doneMessage(m.seq))}
	}
	return nil
}

func TestDecode(t *testing.T) {
	fields := func(info sock.Info) sock.Socket {
		return sock.Socket{
			Conn: ssfilter.Conn{
				State: ssfilter.CloseWait,
				Src:   netip.MustParseAddrPort("10.0.0.1:4242"),
				Dst:   netip.MustParseAddrPort("10.0.0.2:80"),
				Iface: 7,
			},
			ID: *fakeID(4242), Timer: sock.TimerKeepalive, Retrans: 3, Expires: 1500 * time.Millisecond,
			RQueue: 1, WQueue: 2, UID: 1000, Inode: 99, Info: info,
		}
	}
	old := sock.Info{
		Has:          sock.HasUnacked | sock.HasLastDataSent | sock.HasLastDataRecv | sock.HasLastAckRecv,
		Unacked:      24,
		LastDataSent: 44 * time.Millisecond,
		LastDataRecv: 52 * time.Millisecond,
		LastAckRecv:  56 * time.Millisecond,
	}
	counted := old
	counted.Has |= sock.HasBytesAcked | sock.HasBytesReceived
	counted.BytesAcked = native.Uint64(tcpInfo(232)[120:])
	counted.BytesReceived = native.Uint64(tcpInfo(232)[128:])
	all := counted
	all.Has |= sock.HasSegsIn | sock.HasNotSent
	all.SegsIn, all.NotSent = 140, 144
	mptcp := fields(sock.Info{})
	mptcp.MPTCP = true
	marked, unmarked := fields(sock.Info{}), fields(sock.Info{})
	marked.Mark, marked.HasMark = 0x80000001, true
	unmarked.HasMark = true

	ulp := func(name string) []byte {
		return attribute(inetDiagULPInfo, slices.Concat(attribute(9, []byte{1}), attribute(inetULPInfoName, []byte(name+"\x00"))))
	}
	tests := map[string]struct {
		attributes [][]byte
		want       sock.Socket
	}{
		"no attributes":              {nil, fields(sock.Info{})},
		"mark":                       {[][]byte{attribute(inetDiagMark, native.AppendUint32(nil, 0x80000001))}, marked},
		"no mark set":                {[][]byte{attribute(inetDiagMark, make([]byte, 4))}, unmarked},
		"unknown attributes":         {[][]byte{attribute(8, []byte{1}), attribute(4095, make([]byte, 5))}, fields(sock.Info{})},
		"tcp_info of today":          {[][]byte{attribute(8, []byte{1}), attribute(inetDiagInfo, tcpInfo(232))}, fields(all)},
		"tcp_info of the future":     {[][]byte{attribute(inetDiagInfo, tcpInfo(1000))}, fields(all)},
		"tcp_info of Linux 3.10":     {[][]byte{attribute(inetDiagInfo, tcpInfo(104))}, fields(old)},
		"tcp_info of Linux 4.1":      {[][]byte{attribute(inetDiagInfo, tcpInfo(136))}, fields(counted)},
		"tcp_info cut in a field":    {[][]byte{attribute(inetDiagInfo, tcpInfo(126))}, fields(old)},
		"empty tcp_info":             {[][]byte{attribute(inetDiagInfo, nil)}, fields(sock.Info{})},
		"mptcp":                      {[][]byte{ulp("mptcp")}, mptcp},
		"another ULP":                {[][]byte{ulp("tls")}, fields(sock.Info{})},
		"nested flag on the ULP":     {[][]byte{flagNested(ulp("mptcp"))}, mptcp},
		"a last attribute unaligned": {[][]byte{attribute(8, []byte{1})[:5]}, fields(sock.Info{})},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := sock.Socket{MPTCP: true, Info: all} // what the last one left
			got.Mark, got.HasMark, got.Device, got.Cgroup = 5, true, "eth0", "/a"
			b := socketMessage(nl.SOCK_DIAG_BY_FAMILY, 1, 4242, tt.attributes...)
			m, _, err := nextMessage(b)
			check(t, err)
			must(decode(&got, m.data))(t)
			if diff := cmp.Diff(tt.want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
				t.Errorf("socket (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDecodeCgroup(t *testing.T) {
	tests := map[string]struct {
		attributes [][]byte
		want       uint64
	}{
		"told":     {[][]byte{attribute(inetDiagCgroupID, native.AppendUint64(nil, 1<<40|5))}, 1<<40 | 5},
		"not told": {[][]byte{attribute(inetDiagMark, make([]byte, 4))}, 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			m, _, err := nextMessage(socketMessage(nl.SOCK_DIAG_BY_FAMILY, 1, 4242, tt.attributes...))
			check(t, err)
			var s sock.Socket
			if got := must(decode(&s, m.data))(t); got != tt.want {
				t.Errorf("cgroup %d, want %d", got, tt.want)
			}
		})
	}
}

func TestDecodeMalformed(t *testing.T) {
	for name, a := range map[string][]byte{
		"empty mark":             attribute(inetDiagMark, nil),
		"mark of three bytes":    attribute(inetDiagMark, make([]byte, 3)),
		"mark of five bytes":     attribute(inetDiagMark, make([]byte, 5)),
		"mark and mask":          attribute(inetDiagMark, make([]byte, 8)),
		"empty cgroup":           attribute(inetDiagCgroupID, nil),
		"cgroup of seven bytes":  attribute(inetDiagCgroupID, make([]byte, 7)),
		"cgroup of 32 bits":      attribute(inetDiagCgroupID, make([]byte, 4)),
		"cgroup of twelve bytes": attribute(inetDiagCgroupID, make([]byte, 12)),
		"attribute too short":    {3, 0, inetDiagMark, 0},
		"attribute too long":     {9, 0, inetDiagMark, 0, 1, 2, 3, 4},
	} {
		t.Run(name, func(t *testing.T) {
			c, links := openFake(t, func(kind uint16, seq uint32) []any {
				return []any{datagram(socketMessage(kind, seq, 1, a), doneMessage(seq))}
			})
			if seen, err := ports(c, closeWaits); !errors.Is(err, errMalformed) {
				t.Errorf("scan: %v, error %v, want %v", seen, err, errMalformed)
			}
			if answers, err := c.Lookup(fakeIDs(1), nil); !errors.Is(err, errMalformed) {
				t.Errorf("ask: %+v, error %v, want %v", answers, err, errMalformed)
			}
			if !(*links)[0].closed || !(*links)[1].closed {
				t.Error("the link of a malformed answer is still open")
			}
		})
	}
}

func flagNested(attribute []byte) []byte {
	native.PutUint16(attribute[2:], native.Uint16(attribute[2:])|unix.NLA_F_NESTED)
	return attribute
}

func TestDecodeLateTimer(t *testing.T) {
	for ms, want := range map[uint32]time.Duration{0: 0, 1: time.Millisecond, 1<<31 - 1: (1<<31 - 1) * time.Millisecond, ^uint32(0) - 3: 0} {
		if got := expires(ms); got != want {
			t.Errorf("expires(%d) = %v, want %v", ms, got, want)
		}
	}
}

func fakeIDs(n int) []sock.ID {
	ids := make([]sock.ID, n)
	for i := range ids {
		ids[i] = *fakeID(uint16(i + 1))
	}
	return ids
}

func TestLookupOnABadDay(t *testing.T) {
	good := func(kind uint16, seq uint32) []any {
		return []any{
			errorMessage(seq+2, unix.ENOENT),
			datagram(socketMessage(kind, seq+3, 4), socketMessage(kind, seq, 1)),
			errorMessage(seq+1, unix.EAGAIN),
		}
	}
	tests := map[string]struct {
		answer func(kind uint16, seq uint32) []any
		want   string // of each ID: s answered, g gone, k the kernel's error, e the call's
		err    error
	}{
		"each its own": {good, "skgs", nil},
		"one missing": {func(kind uint16, seq uint32) []any {
			return []any{socketMessage(kind, seq, 1), socketMessage(kind, seq+1, 2), errorMessage(seq+3, unix.ENOENT)}
		}, "sseg", errSilence},
		"one twice": {func(kind uint16, seq uint32) []any {
			return []any{socketMessage(kind, seq, 1), socketMessage(kind, seq, 1)}
		}, "seee", errStray},
		"one not asked for": {func(kind uint16, seq uint32) []any {
			return []any{socketMessage(kind, seq, 1), socketMessage(kind, seq+4, 1)}
		}, "seee", errStray},
		"an acknowledgement": {func(kind uint16, seq uint32) []any {
			return []any{errorMessage(seq, 0)}
		}, "eeee", errMalformed},
		"malformed": {func(kind uint16, seq uint32) []any {
			return []any{socketMessage(kind, seq, 1), netlinkMessage(kind, 0, seq+1, make([]byte, 8))}
		}, "seee", errMalformed},
		"send fails": {func(uint16, uint32) []any { return nil }, "eeee", errSend},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c, links := openFake(t, tt.answer, good)
			answers, err := c.Lookup(fakeIDs(4), nil)
			if !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if got := spell(answers, err); got != tt.want {
				t.Errorf("answers %q, want %q", got, tt.want)
			}
			if err != nil && !(*links)[0].closed {
				t.Error("the link of a failed question is still open")
			}
			if answers, err = c.Lookup(fakeIDs(4), answers); err != nil || spell(answers, err) != "skgs" {
				t.Errorf("then: answers %q, error %v", spell(answers, err), err)
			}
		})
	}

	t.Run("one on its way out of the table", func(t *testing.T) {
		c, _ := openFake(t, func(kind uint16, seq uint32) []any {
			closed, closing := socketMessage(kind, seq+1, 2), socketMessage(kind, seq+2, 3)
			closed[unix.NLMSG_HDRLEN+1] = byte(ssfilter.Close)
			clear(closing[unix.NLMSG_HDRLEN+4:][:2]) // idiag_sport
			return []any{socketMessage(kind, seq, 1), closed, closing}
		})
		answers, err := c.Lookup(fakeIDs(3), nil)
		check(t, err)
		if got := spell(answers, nil); got != "sgg" {
			t.Errorf("answers %q, want %q", got, "sgg")
		}
	})

	t.Run("a later batch", func(t *testing.T) {
		batch := 0
		c, _ := openFake(t, func(kind uint16, seq uint32) []any {
			if batch++; batch == 2 {
				return []any{errorMessage(seq, unix.ENOENT)}
			}
			return good(kind, seq)
		})
		answers, err := c.Lookup(fakeIDs(10), nil)
		if !errors.Is(err, errSilence) || spell(answers, err) != "skgsgeeeee" {
			t.Errorf("answers %q, error %v", spell(answers, err), err)
		}
	})
}

func spell(answers []sock.Answer, err error) string {
	var b strings.Builder
	for i, a := range answers {
		switch {
		case a.ID != *fakeID(uint16(i + 1)):
			b.WriteByte('?')
		case a.Err != nil && errors.Is(a.Err, err):
			b.WriteByte('e')
		case a.Err != nil:
			b.WriteByte('k')
		case a.Gone:
			b.WriteByte('g')
		case a.Socket.ID == a.ID && a.Sent != 0 && a.Got > a.Sent:
			b.WriteByte('s')
		}
	}
	return b.String()
}

func TestDestroyOnABadDay(t *testing.T) {
	tests := map[string]struct {
		answer func(kind uint16, seq uint32) []any
		want   []error // all of these
	}{
		"done": {func(_ uint16, seq uint32) []any {
			return []any{errorMessage(seq, 0)}
		}, nil},
		"gone": {func(_ uint16, seq uint32) []any {
			return []any{errorMessage(seq, unix.ENOENT)}
		}, []error{sock.ErrGone}},
		"refused": {func(_ uint16, seq uint32) []any {
			return []any{errorMessage(seq, unix.EPERM)}
		}, []error{unix.EPERM}},
		"not supported": {func(_ uint16, seq uint32) []any {
			return []any{errorMessage(seq, unix.EOPNOTSUPP)}
		}, []error{unix.EOPNOTSUPP}},
		"acknowledgement lost": {func(uint16, uint32) []any {
			return []any{}
		}, []error{sock.ErrUnconfirmed, errSilence}},
		"no buffer space": {func(_ uint16, seq uint32) []any {
			return []any{unix.ENOBUFS, errorMessage(seq, 0)}
		}, []error{sock.ErrUnconfirmed, unix.ENOBUFS}},
		"acknowledgement of another request": {func(_ uint16, seq uint32) []any {
			return []any{errorMessage(seq+1, 0)}
		}, []error{sock.ErrUnconfirmed, errStray}},
		"failure of the request before": {func(_ uint16, seq uint32) []any {
			return []any{errorMessage(seq-1, unix.ENOENT)}
		}, []error{sock.ErrUnconfirmed, errStray}},
		"a socket instead": {func(kind uint16, seq uint32) []any {
			return []any{socketMessage(kind, seq, 1)}
		}, []error{sock.ErrUnconfirmed, errMalformed}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c, links := openFake(t, tt.answer)
			err := c.Destroy(*fakeID(1))
			for _, want := range tt.want {
				if !errors.Is(err, want) {
					t.Errorf("error %v, want %v", err, want)
				}
			}
			if tt.want == nil && err != nil {
				t.Errorf("error %v", err)
			}
			if broken := errors.Is(err, sock.ErrUnconfirmed); broken != (*links)[0].closed {
				t.Errorf("the link is closed: %t, want %t", !broken, broken)
			}
		})
	}

	t.Run("what was not sent is not unconfirmed", func(t *testing.T) {
		c, links := openFake(t, func(uint16, uint32) []any { return nil })
		if err := c.Destroy(*fakeID(1)); !errors.Is(err, errSend) || errors.Is(err, sock.ErrUnconfirmed) || !(*links)[0].closed {
			t.Errorf("error %v, want %v, and the link closed", err, errSend)
		}
	})
}

// FuzzAnswer feeds a Conn with what no kernel says: it must end, and what it takes
// for whole must have had an end.
func FuzzAnswer(f *testing.F) {
	const kind = tcpdiagGetsock
	f.Add(datagram(socketMessage(kind, 1, 1, attribute(inetDiagInfo, tcpInfo(232))), doneMessage(1)))
	f.Add(datagram(socketMessage(nl.SOCK_DIAG_BY_FAMILY, 1, 1), errorMessage(1, unix.ENOENT)))
	f.Add(errorMessage(0, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		ended, acknowledged := false, false
		for rest := b; len(rest) > 0; {
			var m message
			var err error
			if m, rest, err = nextMessage(rest); err != nil {
				break
			}
			ended = ended || m.kind == unix.NLMSG_DONE
			acknowledged = acknowledged || m.kind == unix.NLMSG_ERROR
		}
		answer := func(uint16, uint32) []any { return []any{b} }
		c, _ := openFake(t, answer)
		if err := c.Scan(sock.Query{States: ssfilter.AllStates}, func(*sock.Socket, sock.Instant) {}); err == nil && !ended {
			t.Error("a scan without an end is whole")
		}
		c, _ = openFake(t, answer)
		if answers, err := c.Lookup(fakeIDs(2), nil); err == nil && (errors.Is(answers[0].Err, errUnanswered) || errors.Is(answers[1].Err, errUnanswered)) {
			t.Errorf("no error, and no answer: %+v", answers)
		}
		c, _ = openFake(t, answer)
		if err := c.Destroy(*fakeID(1)); err == nil && !acknowledged {
			t.Error("destroyed, and the kernel did not say so")
		}
	})
}

// FuzzDecode: an ID goes back to the kernel as it came.
func FuzzDecode(f *testing.F) {
	m, _, err := nextMessage(socketMessage(nl.SOCK_DIAG_BY_FAMILY, 1, 1, attribute(8, []byte{3}), attribute(inetDiagInfo, tcpInfo(232)), attribute(inetDiagULPInfo, attribute(inetULPInfoName, []byte("mptcp\x00")))))
	check(f, err)
	f.Add(m.data)
	f.Fuzz(func(t *testing.T, b []byte) {
		var s sock.Socket
		if _, err := decode(&s, b); err != nil {
			return
		}
		if diff := cmp.Diff(b[4:52], appendID(nil, &s.ID)); diff != "" {
			t.Errorf("ID (-received +sent):\n%s", diff)
		}
		if s.Expires < 0 {
			t.Errorf("expires in %v", s.Expires)
		}
	})
}
