package match

import (
	"testing"

	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// A network namespace is told by its number, or by any of the names that it has just
// now; what is not known of it is unknown.
func TestNetns(t *testing.T) {
	number, name := rules.Netns{Inode: 7}, rules.Netns{Name: "blue"}
	for _, test := range []struct {
		title string
		among []rules.Netns
		inode uint32
		names string
		want  ssfilter.Tri
	}{
		{"its number", []rules.Netns{number}, 7, "", ssfilter.True},
		{"another's number", []rules.Netns{number}, 8, "/blue/", ssfilter.False},
		{"a number that is not known", []rules.Netns{number}, 0, "/blue/", ssfilter.Unknown},
		{"its name", []rules.Netns{name}, 7, "/blue/", ssfilter.True},
		{"one of its names", []rules.Netns{name}, 7, "/red/blue/", ssfilter.True},
		{"part of its name", []rules.Netns{name}, 7, "/blue2/a blue/", ssfilter.False},
		{"it has no name", []rules.Netns{name}, 7, "/", ssfilter.False},
		{"names that are not known", []rules.Netns{name}, 7, "", ssfilter.Unknown},
		{"one of several", []rules.Netns{name, number}, 7, "", ssfilter.True},
		{"perhaps one of several", []rules.Netns{number, name}, 8, "", ssfilter.Unknown},
	} {
		t.Run(test.title, func(t *testing.T) {
			s := full(ssfilter.CloseWait, func(s *sock.Socket) { s.ID.Netns, s.NetnsNames = test.inode, test.names })
			m := rules.Match{States: ssfilter.AllStates, Netns: test.among}
			if got := Lasts(&m, subject.Of(&s)); got != test.want {
				t.Errorf("got %d, want %d", got, test.want)
			}
		})
	}
}

// A cgroup is meant with all below it, and a wildcard stands for no slash.
func TestCgroup(t *testing.T) {
	for _, test := range []struct {
		pattern, path string
		want          ssfilter.Tri
	}{
		{"/a", "/a", ssfilter.True},
		{"/a", "/a/b/c", ssfilter.True},
		{"/a", "/ab", ssfilter.False},
		{"/a", "/", ssfilter.False},
		{"/a", "/b/a", ssfilter.False},
		{"/a", "", ssfilter.Unknown},
		{"/a/b", "/a", ssfilter.False},
		{"/a/*", "/a", ssfilter.False},
		{"/a/*", "/a/b", ssfilter.True},
		{"/a/*/c", "/a/b/c/d", ssfilter.True},
		{"/a/*/c", "/a/b/b/c", ssfilter.False},
		{"/a/*.service", "/a/nginx.service", ssfilter.True},
		{"/a/*.service", "/a/nginx.service.d", ssfilter.False},
		{"/a/pod?", "/a/pod1/x", ssfilter.True},
		{"/a/pod?", "/a/pod12", ssfilter.False},
	} {
		m := rules.Match{States: ssfilter.AllStates, Cgroups: []string{"/no-such", test.pattern}}
		s := full(ssfilter.CloseWait, func(s *sock.Socket) { s.Cgroup = test.path })
		if got := Lasts(&m, subject.Of(&s)); got != test.want {
			t.Errorf("%s for %q: got %d, want %d", test.pattern, test.path, got, test.want)
		}
	}
}

func TestFits(t *testing.T) {
	for _, test := range []struct {
		pattern, text string
		want          bool
	}{
		{"", "", true}, {"", "a", false}, {"a", "", false}, {"a", "a", true}, {"a", "ab", false}, {"ab", "a", false},
		{"*", "", true}, {"*", "abc", true}, {"a*", "abc", true}, {"*c", "abc", true}, {"*b", "abc", false}, {"a*c", "ac", true},
		{"*ab*ab", "abaab", true}, {"*ab*ab", "aab", false}, {"a**b", "a-b", true}, {"*a*a*", "aba", true},
		{"?", "a", true}, {"?", "ä", true}, {"?", "", false}, {"??", "a", false}, {"?*", "a", true}, {"?*", "", false}, {"*?", "ä", true},
		{"a?", "a\xff", true}, {"[x]", "[x]", true}, {"*?b", "aab", true}, {"*?b", "b", false}, {"?", "?", true}, {"*", "*", true}, {"a", "*", false},
	} {
		if got := fits(test.pattern, test.text); got != test.want {
			t.Errorf("%q for %q: %v", test.pattern, test.text, got)
		}
	}
}

// The ports that other network namespaces use are others, and all cgroups of one share
// its ports.
func TestUsesPortOfNetns(t *testing.T) {
	anywhere := rules.Match{States: ssfilter.Of(ssfilter.TimeWait)}
	inSeven := anywhere
	inSeven.Netns = []rules.Netns{{Inode: 7}}
	inCgroup := anywhere
	inCgroup.Cgroups = []string{"/a"}
	all := rules.Match{States: ssfilter.AllStates}
	notSeven, notCgroup, perhaps := all, all, all
	notSeven.Netns, notCgroup.Cgroups, perhaps.Netns = []rules.Netns{{Inode: 7}}, []string{"/a"}, []rules.Netns{{Name: "blue"}}
	for _, test := range []struct {
		title   string
		match   rules.Match
		exclude []rules.Match
		inode   uint32
		want    bool
	}{
		{"anywhere", anywhere, nil, 7, true},
		{"its namespace", inSeven, nil, 7, true},
		{"another namespace", inSeven, nil, 8, false},
		{"whatever its cgroup", inCgroup, nil, 7, true},
		{"its namespace is excluded", anywhere, []rules.Match{notSeven}, 7, false},
		{"its namespace is perhaps excluded", anywhere, []rules.Match{perhaps}, 7, false},
		{"another namespace is excluded", anywhere, []rules.Match{notSeven}, 8, true},
		{"its cgroup is excluded", anywhere, []rules.Match{notCgroup}, 7, true},
	} {
		t.Run(test.title, func(t *testing.T) {
			s := full(ssfilter.Established, func(s *sock.Socket) { s.ID.Netns, s.Cgroup = test.inode, "/a" })
			r := Rule{Rule: rules.Rule{Match: []rules.Match{test.match}, Exclude: test.exclude}}
			if got := r.UsesPort(&s); got != test.want {
				t.Errorf("it uses a port: %v", got)
			}
		})
	}
}
