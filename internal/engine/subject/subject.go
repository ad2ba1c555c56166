// Package subject is what rules match and group: a socket and who holds it, and the
// properties of the two. A property by which sockets can be grouped is a row of its table.
package subject

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Subject is a socket and who holds it.
type Subject struct {
	*sock.Socket
	Holders *Holders // nil: nobody has looked
	// KeptAlive: its keepalives are the doing of the rule that is asked, for which it is as it
	// was without.
	KeptAlive bool
}

// Of returns a socket for whose holders nobody has looked.
func Of(s *sock.Socket) Subject { return Subject{Socket: s} }

// HoldersKnown reports whether it is known who holds the socket: these, and nobody else.
func (s Subject) HoldersKnown() bool { return s.Holders != nil && s.Holders.Complete }

// Holders are the processes that hold a socket, as far as /proc shows them.
type Holders struct {
	Processes []sock.Holder
	Complete  bool         // no other holds it: every process of the host was read, or it is settled otherwise
	Kernel    bool         // the socket has an inode, and no process a descriptor of it
	At        sock.Instant // when they began to be looked for
}

// First returns the process that has held the socket for the longest, as far as the start
// of each tells that: what is counted by process counts for this one.
func (h *Holders) First() (first sock.Holder, ok bool) {
	if h == nil || len(h.Processes) == 0 {
		return first, false
	}
	return slices.MinFunc(h.Processes, func(a, b sock.Holder) int {
		return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.PID, b.PID))
	}), true
}

// By reports whether the process is among the holders.
func (h *Holders) By(pid int) bool {
	return slices.ContainsFunc(h.Processes, func(p sock.Holder) bool { return p.PID == pid })
}

// Property is something that a subject has, and by which rules group.
type Property struct {
	Name         rules.GroupKey
	NeedsHolders bool // it is a property of who holds the socket
	Width        int  // of a value in bytes; 0: that varies, up to longestValue
	// Append appends the value, in a form that means the same in every run.
	Append func(b []byte, s Subject) []byte
	// Text is such a value as people read it.
	Text func(value []byte) string
}

// longestValue is the length of a value of varying width: what is longer is cut.
const longestValue = math.MaxUint8

// Properties are all that there are.
var Properties = []Property{
	{Name: rules.BySrc, Width: 16, Append: func(b []byte, s Subject) []byte { return appendAddr(b, s.Src) }, Text: addrText},
	{Name: rules.ByDst, Width: 16, Append: func(b []byte, s Subject) []byte { return appendAddr(b, s.Dst) }, Text: addrText},
	{Name: rules.BySport, Width: 2, Append: func(b []byte, s Subject) []byte { return be.AppendUint16(b, s.Src.Port()) }, Text: portText},
	{Name: rules.ByDport, Width: 2, Append: func(b []byte, s Subject) []byte { return be.AppendUint16(b, s.Dst.Port()) }, Text: portText},
	{Name: rules.ByState, Width: 1, Append: func(b []byte, s Subject) []byte { return append(b, byte(s.State)) }, Text: stateText},
	{Name: rules.ByUser, Width: 4, Append: appendUser, Text: userText},
	{Name: rules.ByNetns, Width: 4, Append: func(b []byte, s Subject) []byte { return be.AppendUint32(b, s.ID.Netns) }, Text: netnsText},
	{Name: rules.ByProcess, NeedsHolders: true, Append: appendProcess, Text: processText},
	{Name: rules.ByPID, NeedsHolders: true, Width: 12, Append: appendPID, Text: pidText},
	{Name: rules.ByUnit, NeedsHolders: true, Append: appendOf(unitOf), Text: ownerText},
	{Name: rules.ByContainer, NeedsHolders: true, Append: appendOf(containerOf), Text: ownerText},
	{Name: rules.ByPod, NeedsHolders: true, Append: appendOf(podOf), Text: ownerText},
}

var be = binary.BigEndian

func appendAddr(b []byte, e ssfilter.Endpoint) []byte {
	a := e.Addr().As16() // an IPv4 address is mapped
	return append(b, a[:]...)
}

func addrText(value []byte) string { return netip.AddrFrom16([16]byte(value)).Unmap().String() }

func portText(value []byte) string { return strconv.Itoa(int(be.Uint16(value))) }

func stateText(value []byte) string { return ssfilter.State(value[0]).String() }

func netnsText(value []byte) string {
	if inode := be.Uint32(value); inode != 0 {
		return strconv.FormatUint(uint64(inode), 10)
	}
	return "unknown"
}

// nobody stands for the user of a socket that has none: a minisocket, or one in
// an accept queue. As a uid it is invalid (uid_valid).
const nobody = math.MaxUint32

func appendUser(b []byte, s Subject) []byte {
	user := s.UID
	if s.Inode == 0 {
		user = nobody
	}
	return be.AppendUint32(b, user)
}

func userText(value []byte) string {
	if user := be.Uint32(value); user != nobody {
		return strconv.FormatUint(uint64(user), 10)
	}
	return "unknown"
}

// appendProcess appends the name of the first process that holds the socket.
func appendProcess(b []byte, s Subject) []byte {
	first, _ := s.Holders.First()
	return append(b, first.Comm...)
}

func processText(value []byte) string {
	if len(value) == 0 {
		return noHolder
	}
	return PlainName(string(value))
}

// PlainName is a process's name without what chats take for a link, a mention or a line of
// its own: a process may give itself any.
func PlainName(comm string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || strings.ContainsRune("<>&|[]()*~`@#:/", r) {
			return '?'
		}
		return r
	}, comm)
}

// appendPID appends the number of that process, and what tells it from a later one of the
// same number.
func appendPID(b []byte, s Subject) []byte {
	first, _ := s.Holders.First()
	return be.AppendUint64(be.AppendUint32(b, uint32(first.PID)), first.Start)
}

func pidText(value []byte) string {
	if pid := be.Uint32(value); pid != 0 {
		return strconv.FormatUint(uint64(pid), 10)
	}
	return noHolder
}

// noHolder stands for who holds a socket that no process does.
const noHolder = "none"

// Key is the properties by which a rule groups. The values of a subject, end to end
// and in that order, tell its group from others: they take little room, for there may
// be 100,000 groups.
type Key []Property

// KeyOf returns the properties of these names. It panics where the rules accept what
// no rule can group by.
func KeyOf(names []rules.GroupKey) Key {
	key := make(Key, 0, len(names))
	for _, name := range names {
		i := slices.IndexFunc(Properties, func(p Property) bool { return p.Name == name })
		if i < 0 {
			panic(fmt.Sprintf("no property %q: the rules accept what is not in the table", name))
		}
		key = append(key, Properties[i])
	}
	return key
}

// NeedsHolders reports whether one of them is a property of who holds the socket. Of a
// subject whose holders are not known they are not to be told.
func (k Key) NeedsHolders() bool {
	return slices.ContainsFunc(k, func(p Property) bool { return p.NeedsHolders })
}

// Width returns how long the values are together, or -1: that varies.
func (k Key) Width() (n int) {
	for i := range k {
		if k[i].Width == 0 {
			return -1
		}
		n += k[i].Width
	}
	return n
}

// Append appends the values of the subject.
func (k Key) Append(b []byte, s Subject) []byte {
	for i := range k {
		p := &k[i]
		if p.Width > 0 {
			b = p.Append(b, s)
			continue
		}
		at := len(b)
		b = p.Append(append(b, 0), s)
		b = b[:min(len(b), at+1+longestValue)]
		b[at] = byte(len(b) - at - 1)
	}
	return b
}

// Netns returns the network namespace that the values tell; 0: they tell none.
func (k Key) Netns(values string) uint32 {
	if v := k.value(values, rules.ByNetns); v != nil {
		return be.Uint32(v)
	}
	return 0
}

// Process returns the process that the values tell: its number, and when it started; 0: they
// tell none.
func (k Key) Process(values string) (p sock.Holder) {
	if v := k.value(values, rules.ByPID); v != nil {
		p.PID, p.Start = int(be.Uint32(v)), be.Uint64(v[4:])
	}
	return p
}

// value returns the value of one property among those that Append has written, or nil.
func (k Key) value(values string, name rules.GroupKey) []byte {
	rest := []byte(values)
	for i := range k {
		width := k[i].Width
		if width == 0 {
			if len(rest) == 0 {
				return nil
			}
			width, rest = int(rest[0]), rest[1:]
		}
		if len(rest) < width {
			return nil
		}
		if k[i].Name == name {
			return rest[:width]
		}
		rest = rest[width:]
	}
	return nil
}

// Label is a property of a group and its value.
type Label struct{ Name, Value string }

// Compare orders groups of one rule by their labels.
func Compare(a, b []Label) int {
	return slices.CompareFunc(a, b, func(a, b Label) int { return cmp.Compare(a.Value, b.Value) })
}

// ByName are labels by their names.
func ByName(labels []Label) map[string]string {
	all := make(map[string]string, len(labels))
	for _, l := range labels {
		all[l.Name] = l.Value
	}
	return all
}

// Labels reads what Append has written; ok is false where that was another key.
func (k Key) Labels(values string) (labels []Label, ok bool) {
	labels, rest := make([]Label, 0, len(k)), []byte(values)
	for i := range k {
		p := &k[i]
		width := p.Width
		if width == 0 {
			if len(rest) == 0 {
				return nil, false
			}
			width, rest = int(rest[0]), rest[1:]
		}
		if len(rest) < width {
			return nil, false
		}
		labels = append(labels, Label{Name: string(p.Name), Value: p.Text(rest[:width])})
		rest = rest[width:]
	}
	return labels, len(rest) == 0
}
