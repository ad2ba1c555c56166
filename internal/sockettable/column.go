package sockettable

import (
	"cmp"
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

// Column is something to show of each socket, to sort by, or to group by. It has one
// function that says what.
type Column struct {
	Name string // what --sort and --group-by call it
	Held bool   // it takes a walk through /proc to know

	text   func(t *Table, r *row) string // empty: not known
	number func(t *Table, r *row) (n uint64, known bool)
	addr   func(r *row) netip.AddrPort
	age    func(r *row) time.Duration

	high    bool // the highest come first
	shared  bool // sockets of one group have it in common
	host    bool // an address is without its port
	hex     bool // people choose the number by its bits, and ss prints it so
	long    bool // a text that is too long to sort by
	narrows bool // on a terminal that is too narrow, its middle is left out
	spare   int  // when it is left out there, as in term.Column
}

// columns are those that have a name.
var columns = []*Column{
	{Name: "state", shared: true, spare: term.LastSpare, text: func(_ *Table, r *row) string { return StateHead(r.State) }},
	{Name: "recv-q", high: true, spare: 4, number: func(_ *Table, r *row) (uint64, bool) { return uint64(r.RQueue), true }},
	{Name: "send-q", high: true, spare: 3, number: func(_ *Table, r *row) (uint64, bool) { return uint64(r.WQueue), true }},
	{Name: "local", shared: true, narrows: true, spare: term.LastSpare + 1, addr: func(r *row) netip.AddrPort { return r.Zoned(r.Src) }},
	{Name: "peer", shared: true, narrows: true, addr: func(r *row) netip.AddrPort { return r.Zoned(r.Dst) }},
	{Name: "src", shared: true, host: true, addr: func(r *row) netip.AddrPort { return r.Zoned(r.Src) }},
	{Name: "sport", shared: true, number: func(_ *Table, r *row) (uint64, bool) { return uint64(r.Src.Port()), true }},
	{Name: "dst", shared: true, host: true, addr: func(r *row) netip.AddrPort { return r.Zoned(r.Dst) }},
	{Name: "dport", shared: true, number: func(_ *Table, r *row) (uint64, bool) { return uint64(r.Dst.Port()), true }},
	{Name: "age", high: true, age: func(r *row) time.Duration { return r.InState }},
	{Name: "idle", high: true, spare: 2, age: func(r *row) time.Duration { return r.Idle }},
	{Name: "verdict", shared: true, spare: term.LastSpare + 2, text: func(_ *Table, r *row) string { return r.remark() }},
	{Name: "uid", shared: true, number: func(_ *Table, r *row) (uint64, bool) { return uint64(r.UID), r.Inode != 0 }},
	{Name: "user", shared: true, text: (*Table).user},
	{Name: "process", shared: true, Held: true, text: (*Table).comm},
	{Name: "pid", shared: true, Held: true, number: (*Table).pid},
	{Name: "unit", shared: true, Held: true, narrows: true, text: func(t *Table, r *row) string { return t.owner(r).UnitName() }},
	{Name: "container", shared: true, Held: true, narrows: true, text: func(t *Table, r *row) string { return t.owner(r).ContainerName() }},
	{Name: "pod", shared: true, Held: true, narrows: true, text: func(t *Table, r *row) string { return t.owner(r).PodName() }},
	{Name: "dev", shared: true, text: func(_ *Table, r *row) string { return r.device() }},
	{Name: "mark", shared: true, hex: true, number: func(_ *Table, r *row) (uint64, bool) { return uint64(r.Mark), r.HasMark }},
	{Name: "cgroup", shared: true, long: true, narrows: true, text: func(_ *Table, r *row) string { return r.Cgroup }},
	{Name: "netns", shared: true, text: func(_ *Table, r *row) string { return Netns(r.ID.Netns) }},
	{Name: "inode", number: func(_ *Table, r *row) (uint64, bool) { return uint64(r.Inode), r.Inode != 0 }},
	{Name: "cookie", number: func(_ *Table, r *row) (uint64, bool) { return r.ID.Cookie, true }},
}

// append appends what a table shows of the socket.
func (c *Column) append(t *Table, b []byte, r *row) []byte {
	switch {
	case c.text != nil:
		return append(b, cmp.Or(c.text(t, r), "-")...)
	case c.number != nil:
		n, known := c.number(t, r)
		if !known {
			return append(b, '-')
		}
		if c.hex {
			return strconv.AppendUint(append(b, "0x"...), n, 16)
		}
		return strconv.AppendUint(b, n, 10)
	case c.addr != nil && c.host:
		return c.addr(r).Addr().AppendTo(b)
	case c.addr != nil:
		return c.addr(r).AppendTo(b)
	default:
		return AppendAge(b, c.age(r), r.Known, r.Exact)
	}
}

// headsOf are the headings of columns.
func headsOf(columns []*Column) (heads []string) {
	for _, c := range columns {
		heads = append(heads, strings.ToUpper(c.Name))
	}
	return heads
}

// Netns is how a network namespace is called, by its inode, as lsns(8) calls it; empty:
// not known.
func Netns(inode uint32) string {
	if inode == 0 {
		return ""
	}
	return strconv.FormatUint(uint64(inode), 10)
}

// netnsColumn is the network namespace by the name that ip-netns(8) has for it, or else
// its inode.
var netnsColumn = &Column{Name: "netns", long: true, narrows: true, text: func(_ *Table, r *row) string {
	return cmp.Or(r.NetnsName(), Netns(r.ID.Netns))
}}

// holderColumn names the first process that holds a socket, and how many more.
var holderColumn = &Column{Name: "process", long: true, narrows: true, Held: true, text: func(t *Table, r *row) string {
	return Holders(t.Holders[r.Inode])
}}

// spareHolderColumn is the same where a line has room for it: it is left out first.
var spareHolderColumn = &Column{Name: holderColumn.Name, long: true, Held: true, spare: 1, text: holderColumn.text}

// Holders names the first process of those that hold a socket, and how many more do.
func Holders(holders []sock.Holder) string {
	switch more := len(holders) - 1; {
	case more < 0:
		return "-"
	case more == 0:
		return fmt.Sprintf("%s[%d]", holders[0].Comm, holders[0].PID)
	default:
		return fmt.Sprintf("%s[%d]+%d", holders[0].Comm, holders[0].PID, more)
	}
}

// OwnerOf returns where the process belongs that Holders names; nil: not known.
func OwnerOf(holders []sock.Holder) *sock.Owner {
	if len(holders) == 0 {
		return nil
	}
	return holders[0].Owner
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
func Sortable() []string { return namesOf(func(c *Column) bool { return !c.long }) }

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

// AppendAge appends an age: with ≥ where it is a lower bound, and - where only
// observation could tell.
func AppendAge(b []byte, d time.Duration, known, exact bool) []byte {
	switch {
	case !known:
		return append(b, '-')
	case !exact:
		b = append(b, "≥"...)
	}
	return append(b, term.Short(d)...)
}

// StateHead is a state as a table shows it.
func StateHead(s ssfilter.State) string { return strings.ToUpper(s.String()) }
