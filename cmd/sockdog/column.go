package main

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// column is something to show of each socket, to sort by, or to group by.
type column struct {
	name  string // what --sort and --group-by call it
	head  string
	print func(c *crowd, b []byte, r *row) []byte
	key   func(c *crowd, r *row) sortKey // nil: it is no order

	high    bool // the highest come first
	shared  bool // sockets of one group have it in common
	number  bool // it is one in JSON
	held    bool // it takes a walk through /proc to know
	late    bool // it takes names that the crowd keeps, which grow until the scan is over
	narrows bool // on a terminal that is too narrow, its middle is left out
	ascii   bool // each byte takes one cell
}

// width is how many cells of a terminal a text of the column takes.
func (c *column) width(text []byte) int {
	width := len(text)
	if !c.ascii {
		for _, b := range text { // valid UTF-8, of which utf8.RuneCount would make a string
			if !utf8.RuneStart(b) {
				width--
			}
		}
	}
	return width
}

// sortKey orders by its fields, one after the other: comparing numbers takes a
// fraction of the time that comparing texts would.
type sortKey struct {
	hi, lo  uint64
	port    uint16
	unknown bool   // last, whatever the direction
	age     uint32 // milliseconds, 0: not known; among those alike the oldest comes first
}

// columns are those that have a name.
var columns = []*column{
	wordColumn("state", "STATE", func(r *row) string { return stateHead(r.state) }),
	queueColumn("recv-q", "RECV-Q", func(r *row) uint32 { return r.rqueue }),
	queueColumn("send-q", "SEND-Q", func(r *row) uint32 { return r.wqueue }),
	endpointColumn("local", "LOCAL", func(r *row) *place { return &r.src }),
	endpointColumn("peer", "PEER", func(r *row) *place { return &r.dst }),
	hostColumn("src", "SRC", func(r *row) *place { return &r.src }),
	numberColumn("sport", "SPORT", func(_ *crowd, r *row) (uint64, bool) { return uint64(r.src.port), true }),
	hostColumn("dst", "DST", func(r *row) *place { return &r.dst }),
	numberColumn("dport", "DPORT", func(_ *crowd, r *row) (uint64, bool) { return uint64(r.dst.port), true }),
	ageColumn("age", "AGE", func(r *row) time.Duration { return r.inState }),
	ageColumn("idle", "IDLE", func(r *row) time.Duration { return r.idle }),
	wordColumn("verdict", "VERDICT", (*row).remark),
	numberColumn("uid", "UID", func(_ *crowd, r *row) (uint64, bool) { return uint64(r.uid), r.inode != 0 }),
	textColumn("user", "USER", (*crowd).user),
	heldColumn(textColumn("process", "PROCESS", (*crowd).comm)),
	heldColumn(numberColumn("pid", "PID", (*crowd).pid)),
	textColumn("dev", "DEV", (*crowd).device),
	markColumn("mark", "MARK"),
	pathColumn("cgroup", "CGROUP", func(c *crowd, r *row) string { return c.names[r.cgroup] }),
	ownColumn(numberColumn("inode", "INODE", func(_ *crowd, r *row) (uint64, bool) { return uint64(r.inode), r.inode != 0 })),
	ownColumn(numberColumn("cookie", "COOKIE", func(_ *crowd, r *row) (uint64, bool) { return r.cookie, true })),
}

// holderColumn names the first process that holds a socket, and how many more.
var holderColumn = &column{head: "PROCESS", narrows: true, held: true, late: true, print: func(c *crowd, b []byte, r *row) []byte {
	return appendHolders(b, c.holders[r.inode])
}}

func appendHolders(b []byte, holders []sock.Holder) []byte {
	if len(holders) == 0 {
		return append(b, '-')
	}
	b = append(appendPlain(b, holders[0].Comm), '[')
	b = append(strconv.AppendInt(b, int64(holders[0].PID), 10), ']')
	if more := len(holders) - 1; more > 0 {
		b = strconv.AppendInt(append(b, '+'), int64(more), 10)
	}
	return b
}

// The columns of the tables.
var (
	usual = columnsOf("state", "recv-q", "send-q", "local", "peer", "age", "idle", "verdict")
	wide  = append(append(columnsOf("state", "recv-q", "send-q", "local", "peer", "age", "idle", "verdict", "uid"), holderColumn),
		columnsOf("dev", "mark", "cgroup", "inode", "cookie")...)
)

// columnsOf finds columns that are there.
func columnsOf(names ...string) []*column {
	var list []*column
	for _, name := range names {
		list = append(list, columns[slices.IndexFunc(columns, func(c *column) bool { return c.name == name })])
	}
	return list
}

func sortable(c *column) bool  { return c.key != nil }
func groupable(c *column) bool { return c.shared }

// columnNames lists the columns that fit, in lines that fit a terminal.
func columnNames(fits func(*column) bool) string {
	var text string
	line := 0 // where the last one begins
	for _, c := range columns {
		if !fits(c) {
			continue
		}
		separator := ", "
		switch {
		case text == "":
			separator = ""
		case len(text)-line+len(separator)+len(c.name) > 78:
			separator = ",\n"
			line = len(text) + len(separator)
		}
		text += separator + c.name
	}
	return text
}

// columnNamed finds a column that a user asks for among those that fit.
func columnNamed(name, what string, fits func(*column) bool) (*column, error) {
	var near cobra.Command // which knows how to suggest a name
	for _, c := range columns {
		if !fits(c) {
			continue
		}
		if c.name == name {
			return c, nil
		}
		near.AddCommand(&cobra.Command{Use: c.name, Run: func(*cobra.Command, []string) {}})
	}
	for near.SuggestionsMinimumDistance = 1; near.SuggestionsMinimumDistance <= 2; near.SuggestionsMinimumDistance++ {
		if list := near.SuggestionsFor(name); len(list) > 0 {
			return nil, fmt.Errorf("cannot %s %q: did you mean %s? There are\n%s", what, name, list[0], columnNames(fits))
		}
	}
	return nil, fmt.Errorf("cannot %s %q: there are\n%s", what, name, columnNames(fits))
}

func queueColumn(name, head string, value func(r *row) uint32) *column {
	return &column{
		name: name, head: head, high: true, number: true, ascii: true,
		print: func(_ *crowd, b []byte, r *row) []byte { return strconv.AppendUint(b, uint64(value(r)), 10) },
		key:   func(_ *crowd, r *row) sortKey { return sortKey{lo: uint64(value(r))} },
	}
}

// numberColumn is one of numbers that identify something.
func numberColumn(name, head string, value func(c *crowd, r *row) (n uint64, known bool)) *column {
	return &column{
		name: name, head: head, shared: true, number: true, ascii: true,
		print: func(c *crowd, b []byte, r *row) []byte {
			n, known := value(c, r)
			if !known {
				return append(b, '-')
			}
			return strconv.AppendUint(b, n, 10)
		},
		key: func(c *crowd, r *row) sortKey {
			n, known := value(c, r)
			return sortKey{unknown: !known, lo: n}
		},
	}
}

// markColumn prints as ss does: people choose marks by their bits.
func markColumn(name, head string) *column {
	return &column{
		name: name, head: head, shared: true, number: true, ascii: true,
		print: func(_ *crowd, b []byte, r *row) []byte {
			if !r.hasMark {
				return append(b, '-')
			}
			return strconv.AppendUint(append(b, "0x"...), uint64(r.mark), 16)
		},
		key: func(_ *crowd, r *row) sortKey { return sortKey{unknown: !r.hasMark, lo: uint64(r.mark)} },
	}
}

// wordColumn is one of words of our own.
func wordColumn(name, head string, value func(r *row) string) *column {
	return &column{
		name: name, head: head, shared: true, ascii: true,
		print: func(_ *crowd, b []byte, r *row) []byte {
			if word := value(r); word != "" {
				return append(b, word...)
			}
			return append(b, '-')
		},
		key: func(_ *crowd, r *row) sortKey { return textKey(value(r)) },
	}
}

// textColumn is one of names that others gave.
func textColumn(name, head string, value func(c *crowd, r *row) string) *column {
	return &column{
		name: name, head: head, shared: true, late: true,
		print: func(c *crowd, b []byte, r *row) []byte {
			if text := value(c, r); text != "" {
				return appendPlain(b, text)
			}
			return append(b, '-')
		},
		key: func(c *crowd, r *row) sortKey { return textKey(value(c, r)) },
	}
}

// appendPlain appends what a process or a cgroup is called, which may be chosen to
// move the cursor.
func appendPlain(b []byte, text string) []byte {
	for _, r := range text {
		if !unicode.IsPrint(r) {
			r = utf8.RuneError
		}
		b = utf8.AppendRune(b, r)
	}
	return b
}

// pathColumn is one of texts that are too long for a sortKey.
func pathColumn(name, head string, value func(c *crowd, r *row) string) *column {
	c := textColumn(name, head, value)
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

func endpointColumn(name, head string, value func(r *row) *place) *column {
	return &column{
		name: name, head: head, shared: true, narrows: true, ascii: true,
		print: func(c *crowd, b []byte, r *row) []byte { return c.endpoint(r, value(r)).AppendTo(b) },
		key: func(_ *crowd, r *row) sortKey {
			p := value(r)
			key := p.key()
			key.port = p.port
			return key
		},
	}
}

func hostColumn(name, head string, value func(r *row) *place) *column {
	return &column{
		name: name, head: head, shared: true, ascii: true,
		print: func(c *crowd, b []byte, r *row) []byte { return c.host(r, value(r)).AppendTo(b) },
		key:   func(_ *crowd, r *row) sortKey { return value(r).key() },
	}
}

func (p *place) key() sortKey {
	return sortKey{hi: binary.BigEndian.Uint64(p.addr[:]), lo: binary.BigEndian.Uint64(p.addr[8:])}
}

func ageColumn(name, head string, value func(r *row) time.Duration) *column {
	return &column{
		name: name, head: head, high: true,
		print: func(_ *crowd, b []byte, r *row) []byte { return appendAge(b, value(r), r.known, r.exact) },
		key:   func(_ *crowd, r *row) sortKey { return sortKey{unknown: !r.known, lo: uint64(value(r).Milliseconds())} },
	}
}

// appendAge prints a lower bound as such, and - for what only observation could
// tell.
func appendAge(b []byte, d time.Duration, known, exact bool) []byte {
	switch {
	case !known:
		return append(b, '-')
	case !exact:
		b = append(b, "≥"...)
	}
	return appendShort(b, d)
}

// ownColumn makes c one that no two sockets have in common.
func ownColumn(c *column) *column { c.shared = false; return c }

// heldColumn makes c one that takes a walk through /proc.
func heldColumn(c *column) *column { c.held, c.late = true, true; return c }

// stateHead is a state as a table shows it.
func stateHead(s ssfilter.State) string {
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
