// Package sockettable is sockets as a table: columns, an order, groups, a summary by
// state, and a socket as JSON. It is filled by who scans, and asks nobody.
package sockettable

import (
	"net/netip"
	"os/user"
	"strconv"
	"time"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/track"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// row is what a table keeps of a socket.
type row struct {
	src, dst      netip.AddrPort // a link-local address with its zone
	cookie        uint64
	inState, idle time.Duration // lower bounds, where known
	*labels
	rqueue, wqueue uint32
	uid, inode     uint32 // no inode: the uid means nothing
	mark           uint32
	state          ssfilter.State
	known, exact   bool // of the ages
	hasMark, mptcp bool
}

// labels are the texts of a row, which many have in common.
type labels struct {
	device, cgroup string
	verdict        rules.Verdict
}

func labelsOf(s *sock.Socket) labels {
	l := labels{s.Device, s.Cgroup, match.Verdict(s)}
	if l.device == "" && s.Iface != 0 {
		l.device = strconv.FormatUint(uint64(s.Iface), 10) // it has no name any more
	}
	return l
}

func rowOf(s *sock.Socket, age track.Age, l *labels) row {
	return row{
		src: s.Zoned(s.Src), dst: s.Zoned(s.Dst), cookie: s.ID.Cookie,
		inState: age.InState, idle: age.Idle, known: age.Known, exact: age.Exact, labels: l, mptcp: s.MPTCP,
		rqueue: s.RQueue, wqueue: s.WQueue, uid: s.UID, inode: s.Inode, mark: s.Mark, hasMark: s.HasMark, state: s.State,
	}
}

// Table is the sockets of one scan. The zero Table has none.
type Table struct {
	// Holders are the processes that hold sockets, by inode, where they were looked
	// for.
	Holders map[uint32][]sock.Holder

	rows    []*row
	room    []row             // for the next rows: one slice of them all would be copied as it grows
	labels  *labels           // of the last row
	states  ssfilter.StateSet // of all rows
	remarks bool              // of some row there is one
	users   map[uint32]string
}

// Add adds a socket that is so old.
func (t *Table) Add(s *sock.Socket, age track.Age) {
	if len(t.room) == 0 {
		t.room = make([]row, 512)
	}
	if l := labelsOf(s); t.labels == nil || *t.labels != l {
		t.labels = new(labels)
		*t.labels = l
	}
	r := &t.room[0]
	t.room = t.room[1:]
	*r = rowOf(s, age, t.labels)
	t.rows = append(t.rows, r)
	t.states |= ssfilter.Of(s.State)
	t.remarks = t.remarks || r.remark() != ""
}

// Len returns how many sockets there are.
func (t *Table) Len() int { return len(t.rows) }

// Inodes are what to find the holders of.
func (t *Table) Inodes() map[uint32]struct{} {
	inodes := make(map[uint32]struct{}, len(t.rows))
	for _, r := range t.rows {
		if r.inode != 0 {
			inodes[r.inode] = struct{}{}
		}
	}
	return inodes
}

// user returns the name that the owner of a socket has here, or else its number.
func (t *Table) user(r *row) string {
	if r.inode == 0 {
		return ""
	}
	text, ok := t.users[r.uid]
	if !ok {
		text = strconv.FormatUint(uint64(r.uid), 10)
		if u, err := user.LookupId(text); err == nil {
			text = u.Username
		}
		if t.users == nil {
			t.users = make(map[uint32]string)
		}
		t.users[r.uid] = text
	}
	return text
}

// comm returns the name of the first process that holds a socket.
func (t *Table) comm(r *row) string {
	if holders := t.Holders[r.inode]; len(holders) > 0 {
		return holders[0].Comm
	}
	return ""
}

func (t *Table) pid(r *row) (uint64, bool) {
	if holders := t.Holders[r.inode]; len(holders) > 0 {
		return uint64(holders[0].PID), true
	}
	return 0, false
}
