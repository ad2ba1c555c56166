// Package sockettable is sockets as a table: columns, an order, groups, a summary by
// state, and a socket as JSON. It is filled by who scans, and asks nobody.
package sockettable

import (
	"os/user"
	"slices"
	"strconv"
	"strings"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/track"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// row is a socket, and how old it is: what most tables show stands together.
type row struct {
	track.Age
	sock.Socket
	connection bool // of Multipath TCP, and no subflow of one
}

// verdict says why the socket is in CLOSE_WAIT. Of an MPTCP connection the kernel does not tell
// whether its program has read the end of the stream.
func (r *row) verdict() rules.Verdict {
	if r.connection {
		return ""
	}
	return match.Verdict(&r.Socket)
}

// subflow reports whether the socket is one of those that an MPTCP connection consists of.
func (r *row) subflow() bool { return r.MPTCP && !r.connection }

// remark is the verdict on a socket, and what it is of MPTCP.
func (r *row) remark() string {
	verdict := string(r.verdict())
	switch {
	case r.connection:
		return "mptcp"
	case r.MPTCP && r.State == ssfilter.Listening: // its connections are to be, and nobody need mind
		return "mptcp-listener"
	case r.MPTCP:
		return strings.TrimPrefix(verdict+",subflow", ",")
	}
	return verdict
}

// device is the name of the device that a socket is bound to, or else its number.
func (r *row) device() string {
	if r.Device == "" && r.Iface != 0 {
		return strconv.FormatUint(uint64(r.Iface), 10) // it has no name any more
	}
	return r.Device
}

// Table is the sockets of one scan. The zero Table has none.
type Table struct {
	// Holders are the processes that hold sockets, by inode, where they were looked
	// for.
	Holders map[uint32][]sock.Holder

	rows    []*row
	room    []row             // for the next rows: one slice of them all would be copied as it grows
	states  ssfilter.StateSet // of all rows
	remarks bool              // of some row there is one
	users   map[uint32]string
}

// Add adds a socket that is so old.
func (t *Table) Add(s *sock.Socket, age track.Age) { t.add(row{Age: age, Socket: *s}) }

// AddMPTCP adds a connection of Multipath TCP, of whose age nothing is known. Its subflows are
// sockets like others.
func (t *Table) AddMPTCP(s *sock.Socket) { t.add(row{Socket: *s, connection: true}) }

func (t *Table) add(added row) {
	if len(t.room) == 0 {
		t.room = make([]row, 512)
	}
	r := &t.room[0]
	t.room = t.room[1:]
	*r = added
	t.rows = append(t.rows, r)
	t.states |= ssfilter.Of(r.State)
	t.remarks = t.remarks || r.remark() != ""
}

// Len returns how many sockets there are.
func (t *Table) Len() int { return len(t.rows) }

// Keep leaves out the sockets that are not to be kept.
func (t *Table) Keep(kept func(s *sock.Socket) bool) {
	t.rows = slices.DeleteFunc(t.rows, func(r *row) bool { return !kept(&r.Socket) })
	t.states, t.remarks = 0, false
	for _, r := range t.rows {
		t.states |= ssfilter.Of(r.State)
		t.remarks = t.remarks || r.remark() != ""
	}
}

// Inodes are what to find the holders of.
func (t *Table) Inodes() map[uint32]struct{} {
	inodes := make(map[uint32]struct{}, len(t.rows))
	for _, r := range t.rows {
		if r.Inode != 0 {
			inodes[r.Inode] = struct{}{}
		}
	}
	return inodes
}

// user returns the name that the owner of a socket has here, or else its number.
func (t *Table) user(r *row) string {
	if r.Inode == 0 {
		return ""
	}
	text, ok := t.users[r.UID]
	if !ok {
		text = strconv.FormatUint(uint64(r.UID), 10)
		if u, err := user.LookupId(text); err == nil {
			text = u.Username
		}
		if t.users == nil {
			t.users = make(map[uint32]string)
		}
		t.users[r.UID] = text
	}
	return text
}

// comm returns the name of the first process that holds a socket.
func (t *Table) comm(r *row) string {
	if holders := t.Holders[r.Inode]; len(holders) > 0 {
		return holders[0].Comm
	}
	return ""
}

// owner returns where that process belongs; nil: not known.
func (t *Table) owner(r *row) *sock.Owner { return OwnerOf(t.Holders[r.Inode]) }

func (t *Table) pid(r *row) (uint64, bool) {
	if holders := t.Holders[r.Inode]; len(holders) > 0 {
		return uint64(holders[0].PID), true
	}
	return 0, false
}
