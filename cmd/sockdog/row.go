package main

import (
	"net/netip"
	"os/user"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// row is a socket as a table keeps it. It has no pointers: of several hundred
// thousand, the garbage collector then has nothing to read.
type row struct {
	src, dst       place
	cookie         uint64
	inState, idle  time.Duration // lower bounds, where known
	rqueue, wqueue uint32
	uid, inode     uint32 // no inode: the uid means nothing
	iface, mark    uint32
	device, cgroup name
	state          ssfilter.State
	verdict        verdict
	known, exact   bool
	hasMark        bool
	mptcp          bool // a subflow
}

// place is an ssfilter.Endpoint without the pointer in a netip.Addr.
type place struct {
	addr [16]byte
	port uint16
	ipv4 bool
}

func placeOf(e ssfilter.Endpoint) place {
	return place{e.Addr().As16(), e.Port(), e.Addr().Is4()}
}

func (p *place) host() netip.Addr {
	addr := netip.AddrFrom16(p.addr)
	if p.ipv4 {
		return addr.Unmap()
	}
	return addr
}

// verdict is an index into verdicts.
type verdict uint8

var verdicts = [...]rules.Verdict{"", rules.EOFUnread, rules.EOFReadNotClosed, rules.UnreadData, rules.StillSending, rules.InBacklog}

// remarks are the verdicts as a table shows them, of what is no MPTCP subflow and of
// what is one.
var remarks = func() (words [len(verdicts)][2]string) {
	for i, v := range verdicts {
		words[i] = [2]string{string(v), strings.TrimPrefix(string(v)+",mptcp", ",")}
	}
	return words
}()

func (r *row) remark() string {
	if r.mptcp {
		return remarks[r.verdict][1]
	}
	return remarks[r.verdict][0]
}

func verdictOf(s *sock.Socket) verdict {
	v := engine.Verdict(s)
	for i, known := range verdicts {
		if v == known {
			return verdict(i)
		}
	}
	return 0
}

// name is an index into the names of a crowd; 0 is "".
type name uint32

// crowd is the sockets of one scan, and what is known beside them.
type crowd struct {
	pages   [][]row // all but the last one full: a single slice would be copied as it grows
	size    int     // rows, those of pages that were cut off included
	states  ssfilter.StateSet
	remarks bool // of any of them there is a verdict
	spare   chan []row
	names   []string
	index   map[string]name
	zones   sync.Map                 // of link-local addresses, by device: read while a scan adds to it
	holders map[uint32][]sock.Holder // by inode, where they were looked for
	users   map[uint32]string
}

// clear forgets the sockets.
func (c *crowd) clear() {
	c.pages, c.size, c.holders = nil, 0, nil
	c.states, c.remarks = 0, false
	if c.index == nil {
		c.spare = make(chan []row, 8)
		c.names, c.index = []string{""}, map[string]name{"": 0}
		c.users = make(map[uint32]string)
	}
}

// pageRows is how many rows a page holds.
const pageRows = 4096

// row returns the row with that index, from 0 to size.
func (c *crowd) row(i int) *row { return &c.pages[i/pageRows][i%pageRows] }

// rows lists them all, by index.
func (c *crowd) rows(yield func(int, *row) bool) {
	for i := range c.size {
		if !yield(i, c.row(i)) {
			return
		}
	}
}

func (c *crowd) add(s *sock.Socket, age engine.Age) {
	if s.Iface != 0 && (sock.LinkLocal(s.Src.Addr()) || sock.LinkLocal(s.Dst.Addr())) {
		c.zones.Store(s.Iface, s.Zone())
	}
	verdict := verdictOf(s)
	c.states |= 1 << s.State
	c.remarks = c.remarks || verdict != 0 || s.MPTCP
	c.append(row{
		src: placeOf(s.Src), dst: placeOf(s.Dst), cookie: s.ID.Cookie,
		inState: age.InState, idle: age.Idle, known: age.Known, exact: age.Exact,
		rqueue: s.RQueue, wqueue: s.WQueue, uid: s.UID, inode: s.Inode,
		iface: s.Iface, device: c.name(s.Device), mark: s.Mark, hasMark: s.HasMark, cgroup: c.name(s.Cgroup),
		state: s.State, verdict: verdict, mptcp: s.MPTCP,
	})
}

func (c *crowd) append(r row) {
	if last := len(c.pages) - 1; last < 0 || len(c.pages[last]) == pageRows {
		c.pages = append(c.pages, c.page())
	}
	last := len(c.pages) - 1
	c.pages[last] = append(c.pages[last], r)
	c.size++
}

// page is an empty one. Memory that was never used is dear: the kernel clears it
// 4 KiB at a time.
func (c *crowd) page() []row {
	select {
	case page := <-c.spare:
		return page[:0]
	default:
		return make([]row, 0, pageRows)
	}
}

// cut takes the last page out of the crowd, for whoever needs its rows once.
func (c *crowd) cut() []row {
	last := len(c.pages) - 1
	page := c.pages[last]
	c.pages = c.pages[:last]
	return page
}

// recycle gives back a page that nobody needs any more.
func (c *crowd) recycle(page []row) {
	select {
	case c.spare <- page:
	default:
	}
}

func (c *crowd) name(text string) name {
	if text == "" {
		return 0
	}
	n, ok := c.index[text]
	if !ok {
		n = name(len(c.names))
		c.names = append(c.names, text)
		c.index[text] = n
	}
	return n
}

// inodes are what to find the holders of.
func (c *crowd) inodes() map[uint32]struct{} {
	inodes := make(map[uint32]struct{}, c.size)
	for _, r := range c.rows {
		if r.inode != 0 {
			inodes[r.inode] = struct{}{}
		}
	}
	return inodes
}

// dull are the columns that tell the same of all these sockets, and those that tell
// nothing of any.
func (c *crowd) dull() (same, empty []string) {
	if len(c.states.States()) < 2 {
		same = []string{"state"}
	}
	if !c.remarks {
		empty = []string{"verdict"}
	}
	return same, empty
}

// host is an address of a row, with the zone of a link-local one.
func (c *crowd) host(r *row, p *place) netip.Addr {
	addr := p.host()
	if r.iface != 0 && sock.LinkLocal(addr) {
		if zone, ok := c.zones.Load(r.iface); ok {
			return addr.WithZone(zone.(string))
		}
	}
	return addr
}

func (c *crowd) endpoint(r *row, p *place) ssfilter.Endpoint {
	return netip.AddrPortFrom(c.host(r, p), p.port)
}

// device is what a socket is bound to: by its number where that has no name any
// more, "" if to nothing.
func (c *crowd) device(r *row) string {
	if r.device == 0 && r.iface != 0 {
		return strconv.FormatUint(uint64(r.iface), 10)
	}
	return c.names[r.device]
}

// user is the name that the owner of a socket has here, or else its number.
func (c *crowd) user(r *row) string {
	if r.inode == 0 {
		return ""
	}
	text, ok := c.users[r.uid]
	if !ok {
		text = strconv.FormatUint(uint64(r.uid), 10)
		if u, err := user.LookupId(text); err == nil {
			text = u.Username
		}
		c.users[r.uid] = text
	}
	return text
}

// comm is the name of the first process that holds a socket.
func (c *crowd) comm(r *row) string {
	if held := c.holders[r.inode]; len(held) > 0 {
		return held[0].Comm
	}
	return ""
}

func (c *crowd) pid(r *row) (uint64, bool) {
	if held := c.holders[r.inode]; len(held) > 0 {
		return uint64(held[0].PID), true
	}
	return 0, false
}
