package engine

import (
	"encoding/binary"
	"math"
	"net/netip"
	"strconv"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// groupID is what a rule's group_by makes of a socket: the properties that it
// names, end to end and in its order. It takes no more room than they do, for there
// may be 100,000, and means the same in every run.
type groupID string

// longestID is the length of a groupID by every property.
const longestID = 16 + 16 + 2 + 2 + 1 + 4

// nobody stands for the user of a socket that has none: a minisocket, or one in
// an accept queue. As a uid it is invalid (uid_valid).
const nobody = math.MaxUint32

// width is how long the property is in a groupID.
func width(key rules.GroupKey) int {
	switch key {
	case rules.BySrc, rules.ByDst:
		return 16 // an IPv4 address is mapped
	case rules.BySport, rules.ByDport:
		return 2
	case rules.ByUser:
		return 4
	default:
		return 1
	}
}

// idWidth is how long the groupIDs of a rule are.
func idWidth(by []rules.GroupKey) int {
	n := 0
	for _, key := range by {
		n += width(key)
	}
	return n
}

// appendGroup appends the groupID of the socket.
func appendGroup(id []byte, by []rules.GroupKey, s *sock.Socket) []byte {
	be := binary.BigEndian
	for _, key := range by {
		switch key {
		case rules.BySrc:
			a := s.Src.Addr().As16()
			id = append(id, a[:]...)
		case rules.ByDst:
			a := s.Dst.Addr().As16()
			id = append(id, a[:]...)
		case rules.BySport:
			id = be.AppendUint16(id, s.Src.Port())
		case rules.ByDport:
			id = be.AppendUint16(id, s.Dst.Port())
		case rules.ByState:
			id = append(id, byte(s.State))
		case rules.ByUser:
			user := s.UID
			if s.Inode == 0 {
				user = nobody
			}
			id = be.AppendUint32(id, user)
		}
	}
	return id
}

// key is the group as it is kept on disk.
func (id groupID) key() sock.GroupKey { return sock.GroupKey(id) }

// groupOfKey is the group that was kept for a rule with that group_by. An older
// sockdog kept a longer key; ok is false where it is shorter than any such group's.
func groupOfKey(k sock.GroupKey, by []rules.GroupKey) (id groupID, ok bool) {
	if len(k) < idWidth(by) {
		return "", false
	}
	return groupID(k[:idWidth(by)]), true
}

// A Label is one property of a group.
type Label struct{ Name, Value string }

// ByName are the properties of a group by their names.
func ByName(labels []Label) map[string]string {
	all := make(map[string]string, len(labels))
	for _, l := range labels {
		all[l.Name] = l.Value
	}
	return all
}

// labels are the group's properties, in the order of group_by.
func (id groupID) labels(by []rules.GroupKey) []Label {
	labels := make([]Label, 0, len(by))
	rest := []byte(id)
	be := binary.BigEndian
	for _, key := range by {
		l := Label{Name: string(key)}
		switch property := rest[:width(key)]; key {
		case rules.BySrc, rules.ByDst:
			l.Value = netip.AddrFrom16([16]byte(property)).Unmap().String()
		case rules.BySport, rules.ByDport:
			l.Value = strconv.Itoa(int(be.Uint16(property)))
		case rules.ByState:
			l.Value = ssfilter.State(property[0]).String()
		case rules.ByUser:
			if user := be.Uint32(property); user == nobody {
				l.Value = "unknown"
			} else {
				l.Value = strconv.FormatUint(uint64(user), 10)
			}
		}
		labels = append(labels, l)
		rest = rest[width(key):]
	}
	return labels
}
