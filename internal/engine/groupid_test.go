package engine

import (
	"net/netip"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// TestGroupIDs: a group has the properties of its sockets, in any order that
// group_by may name them, and what is kept of it names the same one again.
func TestGroupIDs(t *testing.T) {
	s := sock.Socket{Inode: 1, UID: 70000}
	s.Src, s.Dst, s.State = netip.MustParseAddrPort("[fd00::1]:258"), netip.MustParseAddrPort("10.0.0.2:772"), ssfilter.TimeWait
	holderless := s
	holderless.Inode, holderless.UID = 0, 0
	properties := []struct {
		key         rules.GroupKey
		want, other string // of the one without a holder
	}{
		{rules.BySrc, "fd00::1", "fd00::1"},
		{rules.ByDst, "10.0.0.2", "10.0.0.2"},
		{rules.BySport, "258", "258"},
		{rules.ByDport, "772", "772"},
		{rules.ByState, "time-wait", "time-wait"},
		{rules.ByUser, "70000", "unknown"},
	}
	for first := range properties {
		for n := range len(properties) + 1 {
			var by []rules.GroupKey
			var want, wantOther []Label
			for i := range n {
				p := properties[(first+i)%len(properties)]
				by = append(by, p.key)
				want, wantOther = append(want, Label{string(p.key), p.want}), append(wantOther, Label{string(p.key), p.other})
			}
			for _, test := range []struct {
				s    *sock.Socket
				want []Label
			}{{&s, want}, {&holderless, wantOther}} {
				id := groupID(appendGroup(nil, by, test.s))
				if diff := cmp.Diff(append([]Label{}, test.want...), id.labels(by)); diff != "" {
					t.Errorf("by %v (-want +got):\n%s", by, diff)
				}
				for _, key := range []sock.GroupKey{id.key(), id.key() + "\x00\x00"} {
					if again, ok := groupOfKey(key, by); !ok || again != id || len(id) > longestID {
						t.Errorf("by %v: %x became %x", by, id, again)
					}
				}
				if len(id) > 0 {
					if again, ok := groupOfKey(id.key()[1:], by); ok {
						t.Errorf("by %v: part of a key became %x", by, again)
					}
				}
			}
		}
	}
}

// TestGroupIDsDiffer: what differs in a property that group_by names is another
// group, and root's sockets are not those without a holder.
func TestGroupIDsDiffer(t *testing.T) {
	by := []rules.GroupKey{rules.BySrc, rules.ByDst, rules.BySport, rules.ByDport, rules.ByState, rules.ByUser}
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	seen := make(map[groupID]string)
	for i := range 1 << 6 {
		bit := func(n int) bool { return i>>n&1 == 1 }
		pick := func(n int) netip.AddrPort {
			addr, port := a, uint16(1)
			if bit(n) {
				addr = b
			}
			if bit(n + 1) {
				port = 2
			}
			return netip.AddrPortFrom(addr, port)
		}
		s := sock.Socket{}
		s.Src, s.Dst, s.State = pick(0), pick(2), ssfilter.CloseWait
		if bit(4) {
			s.State = ssfilter.Established
		}
		if bit(5) {
			s.Inode = 1
		}
		id := groupID(appendGroup(nil, by, &s))
		if other, taken := seen[id]; taken {
			t.Errorf("%b and %s are one group", i, other)
		}
		seen[id] = strconv.FormatInt(int64(i), 2)
	}
}
