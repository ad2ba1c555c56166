package subject_test

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// The rules accept the properties that are in the table, and no others.
func TestProperties(t *testing.T) {
	var names []rules.GroupKey
	for _, p := range subject.Properties {
		names = append(names, p.Name)
	}
	slices.Sort(names)
	if diff := cmp.Diff(slices.Sorted(slices.Values(rules.GroupKeys)), names); diff != "" {
		t.Errorf("(-accepted +in the table):\n%s", diff)
	}
}

// A group has the properties of its sockets, in any order that group_by may name
// them, and what is kept of it names the same one again.
func TestKey(t *testing.T) {
	s := sock.Socket{Inode: 1, UID: 70000}
	s.Src, s.Dst, s.State = netip.MustParseAddrPort("[fd00::1]:258"), netip.MustParseAddrPort("10.0.0.2:772"), ssfilter.TimeWait
	s.ID.Netns = 4026531840
	holderless := s
	holderless.Inode, holderless.UID, holderless.ID.Netns = 0, 0, 0
	long := strings.Repeat("x", 300)
	at := &sock.Owner{Unit: sock.Fact{Text: "postgresql@15-main.service", Known: true}, ContainerID: sock.Fact{Known: true}}
	one, other := subject.Holders{Processes: []sock.Holder{{PID: 6, Start: 5, Comm: "child"}, {PID: 7, Start: 4, Comm: "a-service", Owner: at}, {PID: 8, Start: 4, Comm: "other"}}}, subject.Holders{Processes: []sock.Holder{{Comm: long}}}
	properties := []struct {
		property    subject.Property
		want, other string // of the one without a holder
	}{
		{property(rules.BySrc), "fd00::1", "fd00::1"},
		{property(rules.ByDst), "10.0.0.2", "10.0.0.2"},
		{property(rules.BySport), "258", "258"},
		{property(rules.ByProcess), "a-service", long[:255]},
		{property(rules.ByPID), "7", "none"},
		{property(rules.ByDport), "772", "772"},
		{property(rules.ByUnit), "postgresql@15-main.service", "unknown"},
		{property(rules.ByContainer), "none", "unknown"},
		{property(rules.ByPod), "unknown", "unknown"},
		{property(rules.ByState), "time-wait", "time-wait"},
		{property(rules.ByUser), "70000", "unknown"},
		{property(rules.ByNetns), "4026531840", "unknown"},
	}
	for first := range properties {
		for n := range len(properties) + 1 {
			var by subject.Key
			want, wantOther := []subject.Label{}, []subject.Label{}
			for i := range n {
				p := properties[(first+i)%len(properties)]
				by = append(by, p.property)
				name := string(p.property.Name)
				want, wantOther = append(want, subject.Label{Name: name, Value: p.want}), append(wantOther, subject.Label{Name: name, Value: p.other})
			}
			for _, test := range []struct {
				s    subject.Subject
				want []subject.Label
			}{{subject.Subject{Socket: &s, Holders: &one}, want}, {subject.Subject{Socket: &holderless, Holders: &other}, wantOther}} {
				values := string(by.Append(nil, test.s))
				got, ok := by.Labels(values)
				if diff := cmp.Diff(test.want, got); diff != "" || !ok {
					t.Errorf("by %v: %t (-want +got):\n%s", test.want, ok, diff)
				}
				if width := by.Width(); width >= 0 && width != len(values) {
					t.Errorf("by %v: %d bytes, said to be %d", test.want, len(values), width)
				}
				if _, ok := by.Labels(values + "x"); ok {
					t.Errorf("by %v: one byte too many is read", test.want)
				}
				if by.Width() > 0 {
					if again, ok := by.Labels(values[1:]); ok {
						t.Errorf("by %v: part of the values became %x", test.want, again)
					}
				}
			}
		}
	}
}

func property(name rules.GroupKey) subject.Property { return subject.KeyOf([]rules.GroupKey{name})[0] }

// What differs in a property that group_by names is another group, and root's sockets
// are not those without a holder.
func TestKeysDiffer(t *testing.T) {
	by := subject.KeyOf([]rules.GroupKey{rules.BySrc, rules.ByDst, rules.BySport, rules.ByDport, rules.ByState, rules.ByUser, rules.ByNetns})
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	seen := make(map[string]string)
	for i := range 1 << 7 {
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
		if bit(6) {
			s.ID.Netns = 1
		}
		id := string(by.Append(nil, subject.Subject{Socket: &s}))
		if other, taken := seen[id]; taken {
			t.Errorf("%b and %s are one group", i, other)
		}
		seen[id] = strconv.FormatInt(int64(i), 2)
	}
}

// A process may give itself any name: a group by it is called by one that no chat takes
// for a link, a mention or another line.
func TestNamesAreHarmless(t *testing.T) {
	by := subject.KeyOf([]rules.GroupKey{rules.ByProcess})
	held := subject.Holders{Processes: []sock.Holder{{PID: 1, Comm: "<!here> a\nb@c"}}}
	labels, ok := by.Labels(string(by.Append(nil, subject.Subject{Socket: &sock.Socket{}, Holders: &held})))
	if want := []subject.Label{{Name: "process", Value: "?!here? a?b?c"}}; !ok || !slices.Equal(labels, want) {
		t.Errorf("%v, want %v", labels, want)
	}
}

// A socket counts for the process that has been there for the longest, by its name and by
// its number, which a later process of that number does not inherit.
func TestProcessKeys(t *testing.T) {
	key := subject.KeyOf([]rules.GroupKey{rules.ByProcess, rules.ByPID})
	if !key.NeedsHolders() || subject.KeyOf([]rules.GroupKey{rules.ByUser}).NeedsHolders() {
		t.Error("it does not say which properties are those of holders")
	}
	a, b := sock.Holder{PID: 300, Start: 5, Comm: "parent"}, sock.Holder{PID: 200, Start: 6, Comm: "child"}
	values := func(p ...sock.Holder) string {
		return string(key.Append(nil, subject.Subject{Socket: &sock.Socket{}, Holders: &subject.Holders{Processes: p}}))
	}
	for _, test := range []struct {
		name      string
		processes []sock.Holder
		want      []string
	}{
		{"one", []sock.Holder{b}, []string{"child", "200"}},
		{"two", []sock.Holder{b, a}, []string{"parent", "300"}},
		{"started at once", []sock.Holder{{PID: 9, Start: 5, Comm: "x"}, {PID: 8, Start: 5, Comm: "y"}}, []string{"y", "8"}},
		{"nobody", nil, []string{"none", "none"}},
	} {
		labels, ok := key.Labels(values(test.processes...))
		if !ok || len(labels) != 2 || labels[0].Value != test.want[0] || labels[1].Value != test.want[1] {
			t.Errorf("%s: %v, want %v", test.name, labels, test.want)
		}
	}
	again := a
	again.Start = 50
	if values(a) == values(again) {
		t.Error("a process inherits the group of one whose number it has")
	}
}

// A process belongs to a unit, a container and a pod, by the best name that is known.
func TestOwnerKeys(t *testing.T) {
	const id = "fa7f0ec4fbcbb70c69565a5b2d269926e04ec5601dff59235199d6e60198e95c"
	is := func(text string) sock.Fact { return sock.Fact{Text: text, Known: true} }
	key := subject.KeyOf([]rules.GroupKey{rules.ByUnit, rules.ByContainer, rules.ByPod})
	if !key.NeedsHolders() {
		t.Error("it is not a property of holders")
	}
	for _, test := range []struct {
		name                 string
		holders              []sock.Holder
		unit, container, pod string
	}{
		{"nobody", nil, "none", "none", "none"},
		{"nothing is known", []sock.Holder{{PID: 1}}, "unknown", "unknown", "unknown"},
		{"a service", []sock.Holder{{Owner: &sock.Owner{Unit: is("a.service"), ContainerID: is(""), PodUID: is("")}}}, "a.service", "none", "none"},
		{"names", []sock.Holder{{Owner: &sock.Owner{Unit: is(""), ContainerID: is(id), Container: "app", PodUID: is("1"), Pod: "shop/web"}}}, "none", "app", "shop/web"},
		{"no names", []sock.Holder{{Owner: &sock.Owner{ContainerID: is(id), PodUID: is("05b3ee07-a2bd-47e7-9599-7961201f20dd")}}}, "unknown", id[:12], "05b3ee07-a2bd-47e7-9599-7961201f20dd"},
		{"a pod that its container tells", []sock.Holder{{Owner: &sock.Owner{ContainerID: is(id), Container: "app", Pod: "shop/web"}}}, "unknown", "app", "shop/web"},
		{"a hostile name", []sock.Holder{{Owner: &sock.Owner{Unit: is("<!here>\n.service"), ContainerID: is(""), PodUID: is("")}}}, "?!here??.service", "none", "none"},
		{"the first holder counts", []sock.Holder{{Start: 2, Owner: &sock.Owner{Unit: is("b.service")}}, {Start: 1, Owner: &sock.Owner{Unit: is("a.service")}}}, "a.service", "unknown", "unknown"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := subject.Subject{Socket: &sock.Socket{}, Holders: &subject.Holders{Processes: test.holders}}
			labels, ok := key.Labels(string(key.Append(nil, s)))
			want := []subject.Label{{Name: "unit", Value: test.unit}, {Name: "container", Value: test.container}, {Name: "pod", Value: test.pod}}
			if diff := cmp.Diff(want, labels); diff != "" || !ok {
				t.Errorf("%t (-want +got):\n%s", ok, diff)
			}
		})
	}
}
