package sockettable

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/term"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Column is something to show of each socket, to sort by, or to group by.
type Column struct {
	Name string // what --sort and --group-by call it
	Held bool   // it takes a walk through /proc to know

	head    string
	print   func(t *Table, b []byte, r *row) []byte
	key     func(t *Table, r *row) sortKey // nil: it is no order
	high    bool                           // the highest come first
	shared  bool                           // sockets of one group have it in common
	number  bool                           // it is one in JSON
	narrows bool                           // on a terminal that is too narrow, its middle is left out
}

// sortKey orders by its fields, one after the other: comparing numbers takes a
// fraction of the time that comparing texts would.
type sortKey struct {
	hi, lo  uint64
	port    uint16
	unknown bool // last, whatever the direction
}

// columns are those that have a name.
var columns = []*Column{
	textColumn("state", func(_ *Table, r *row) string { return StateHead(r.state) }),
	queueColumn("recv-q", func(r *row) uint32 { return r.rqueue }),
	queueColumn("send-q", func(r *row) uint32 { return r.wqueue }),
	endpointColumn("local", func(r *row) netip.AddrPort { return r.src }),
	endpointColumn("peer", func(r *row) netip.AddrPort { return r.dst }),
	hostColumn("src", func(r *row) netip.AddrPort { return r.src }),
	numberColumn("sport", func(_ *Table, r *row) (uint64, bool) { return uint64(r.src.Port()), true }),
	hostColumn("dst", func(r *row) netip.AddrPort { return r.dst }),
	numberColumn("dport", func(_ *Table, r *row) (uint64, bool) { return uint64(r.dst.Port()), true }),
	ageColumn("age", func(r *row) time.Duration { return r.inState }),
	ageColumn("idle", func(r *row) time.Duration { return r.idle }),
	textColumn("verdict", func(_ *Table, r *row) string { return r.remark() }),
	numberColumn("uid", func(_ *Table, r *row) (uint64, bool) { return uint64(r.uid), r.inode != 0 }),
	textColumn("user", (*Table).user),
	heldColumn(textColumn("process", (*Table).comm)),
	heldColumn(numberColumn("pid", (*Table).pid)),
	textColumn("dev", func(_ *Table, r *row) string { return r.device }),
	markColumn(),
	cgroupColumn(),
	ownColumn(numberColumn("inode", func(_ *Table, r *row) (uint64, bool) { return uint64(r.inode), r.inode != 0 })),
	ownColumn(numberColumn("cookie", func(_ *Table, r *row) (uint64, bool) { return r.cookie, true })),
}

// holderColumn names the first process that holds a socket, and how many more.
var holderColumn = &Column{head: "PROCESS", narrows: true, Held: true, print: func(t *Table, b []byte, r *row) []byte {
	return AppendHolders(b, t.Holders[r.inode])
}}

// AppendHolders appends the first process that holds a socket, and how many more do.
func AppendHolders(b []byte, holders []sock.Holder) []byte {
	if len(holders) == 0 {
		return append(b, '-')
	}
	b = append(append(b, holders[0].Comm...), '[')
	b = append(strconv.AppendInt(b, int64(holders[0].PID), 10), ']')
	if more := len(holders) - 1; more > 0 {
		b = strconv.AppendInt(append(b, '+'), int64(more), 10)
	}
	return b
}

// The columns of the tables.
var (
	usual = columnsOf("state", "recv-q", "send-q", "local", "peer", "age", "idle", "verdict")
	wide  = slices.Concat(usual, columnsOf("uid"), []*Column{holderColumn}, columnsOf("dev", "mark", "cgroup", "inode", "cookie"))
)

// columnsOf finds columns that are there.
func columnsOf(names ...string) []*Column {
	var list []*Column
	for _, name := range names {
		list = append(list, columns[slices.IndexFunc(columns, func(c *Column) bool { return c.Name == name })])
	}
	return list
}

// Sortable are the names of the columns that --sort takes.
func Sortable() []string { return namesOf(func(c *Column) bool { return c.key != nil }) }

// Groupable are the names of the columns that --group-by takes.
func Groupable() []string { return namesOf(func(c *Column) bool { return c.shared }) }

func namesOf(fits func(*Column) bool) []string {
	var names []string
	for _, c := range columns {
		if fits(c) {
			names = append(names, c.Name)
		}
	}
	return names
}

// columnNamed finds a column that a user asks for among those of the names.
func columnNamed(name, what string, names []string) (*Column, error) {
	if !slices.Contains(names, name) {
		return nil, &UnknownColumn{name, what, names}
	}
	return columnsOf(name)[0], nil
}

// UnknownColumn is the error that there is no column of that name for what is asked.
type UnknownColumn struct {
	Name, What string
	Names      []string // that there are
}

func (e *UnknownColumn) Error() string { return fmt.Sprintf("cannot %s %q", e.What, e.Name) }

func queueColumn(name string, value func(r *row) uint32) *Column {
	return &Column{
		Name: name, head: strings.ToUpper(name), high: true, number: true,
		print: func(_ *Table, b []byte, r *row) []byte { return strconv.AppendUint(b, uint64(value(r)), 10) },
		key:   func(_ *Table, r *row) sortKey { return sortKey{lo: uint64(value(r))} },
	}
}

// numberColumn is one of numbers that identify something.
func numberColumn(name string, value func(t *Table, r *row) (n uint64, known bool)) *Column {
	return &Column{
		Name: name, head: strings.ToUpper(name), shared: true, number: true,
		print: func(t *Table, b []byte, r *row) []byte {
			n, known := value(t, r)
			if !known {
				return append(b, '-')
			}
			return strconv.AppendUint(b, n, 10)
		},
		key: func(t *Table, r *row) sortKey {
			n, known := value(t, r)
			return sortKey{unknown: !known, lo: n}
		},
	}
}

// markColumn prints as ss does: people choose marks by their bits.
func markColumn() *Column {
	c := numberColumn("mark", func(_ *Table, r *row) (uint64, bool) { return uint64(r.mark), r.hasMark })
	c.print = func(_ *Table, b []byte, r *row) []byte {
		if !r.hasMark {
			return append(b, '-')
		}
		return strconv.AppendUint(append(b, "0x"...), uint64(r.mark), 16)
	}
	return c
}

// textColumn is one of words and names.
func textColumn(name string, value func(t *Table, r *row) string) *Column {
	return &Column{
		Name: name, head: strings.ToUpper(name), shared: true,
		print: func(t *Table, b []byte, r *row) []byte {
			if text := value(t, r); text != "" {
				return append(b, text...)
			}
			return append(b, '-')
		},
		key: func(t *Table, r *row) sortKey { return textKey(value(t, r)) },
	}
}

// cgroupColumn is one of texts that are too long for a sortKey.
func cgroupColumn() *Column {
	c := textColumn("cgroup", func(_ *Table, r *row) string { return r.cgroup })
	c.key, c.narrows = nil, true
	return c
}

// textKey orders by the first 16 bytes: more than a comm or the name of a device
// has.
func textKey(text string) sortKey {
	var first [16]byte
	copy(first[:], text)
	return sortKey{unknown: text == "", hi: binary.BigEndian.Uint64(first[:]), lo: binary.BigEndian.Uint64(first[8:])}
}

func endpointColumn(name string, value func(r *row) netip.AddrPort) *Column {
	return &Column{
		Name: name, head: strings.ToUpper(name), shared: true, narrows: true,
		print: func(_ *Table, b []byte, r *row) []byte { return value(r).AppendTo(b) },
		key:   func(_ *Table, r *row) sortKey { return addrKey(value(r).Addr(), value(r).Port()) },
	}
}

func hostColumn(name string, value func(r *row) netip.AddrPort) *Column {
	return &Column{
		Name: name, head: strings.ToUpper(name), shared: true,
		print: func(_ *Table, b []byte, r *row) []byte { return value(r).Addr().AppendTo(b) },
		key:   func(_ *Table, r *row) sortKey { return addrKey(value(r).Addr(), 0) },
	}
}

func addrKey(addr netip.Addr, port uint16) sortKey {
	bytes := addr.As16()
	return sortKey{hi: binary.BigEndian.Uint64(bytes[:]), lo: binary.BigEndian.Uint64(bytes[8:]), port: port}
}

func ageColumn(name string, value func(r *row) time.Duration) *Column {
	return &Column{
		Name: name, head: strings.ToUpper(name), high: true,
		print: func(_ *Table, b []byte, r *row) []byte { return AppendAge(b, value(r), r.known, r.exact) },
		key:   func(_ *Table, r *row) sortKey { return sortKey{unknown: !r.known, lo: uint64(value(r).Milliseconds())} },
	}
}

// AppendAge appends an age: with ≥ where it is a lower bound, and - where only
// observation could tell.
func AppendAge(b []byte, d time.Duration, known, exact bool) []byte {
	switch {
	case !known:
		return append(b, '-')
	case !exact:
		b = append(b, "≥"...)
	}
	return term.AppendShort(b, d)
}

// ownColumn makes c one that no two sockets have in common.
func ownColumn(c *Column) *Column { c.shared = false; return c }

// heldColumn makes c one that takes a walk through /proc.
func heldColumn(c *Column) *Column { c.Held = true; return c }

// remark is the verdict on a socket, and that it is an MPTCP subflow.
func (r *row) remark() string {
	if !r.mptcp {
		return string(r.verdict)
	}
	return strings.TrimPrefix(string(r.verdict)+",mptcp", ",")
}

// StateHead is a state as a table shows it.
func StateHead(s ssfilter.State) string {
	if int(s) < len(stateHeads) {
		return stateHeads[s]
	}
	return strings.ToUpper(s.String())
}

var stateHeads = func() (heads [ssfilter.BoundInactive + 1]string) {
	for s := range heads {
		heads[s] = strings.ToUpper(ssfilter.State(s).String())
	}
	return heads
}()
