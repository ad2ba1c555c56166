package match

import (
	"slices"
	"strings"
	"testing"

	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/engine/track"
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

// A process is told by its name or that of its program. Of several that hold a socket
// all must match, and to be excluded one is enough; where another may hold it, or nobody
// does, that is unknown.
func TestProcess(t *testing.T) {
	const no, unknown, yes = ssfilter.False, ssfilter.Unknown, ssfilter.True
	nginx, java := sock.Holder{PID: 1, Comm: "nginx", Exe: "nginx"}, sock.Holder{PID: 2, Comm: "worker", Exe: "java"}
	script := sock.Holder{PID: 3, Comm: "a-long-named-sc", Exe: "python3.12"}
	hidden := sock.Holder{PID: 4, Comm: "other"}
	by := func(p ...sock.Holder) *subject.Holders { return &subject.Holders{Processes: p, Complete: true} }
	some := func(p ...sock.Holder) *subject.Holders { return &subject.Holders{Processes: p} }
	for _, test := range []struct {
		title   string
		names   []string
		held    *subject.Holders
		matches ssfilter.Tri
		spares  ssfilter.Tri
	}{
		{"its name", []string{"nginx"}, by(nginx), yes, yes},
		{"its program's name", []string{"java"}, by(java), yes, yes},
		{"its own name", []string{"work*"}, by(java), yes, yes},
		{"another", []string{"java"}, by(nginx), no, no},
		{"part of the name", []string{"ngin"}, by(nginx), no, no},
		{"one of several names", []string{"java", "ng?nx"}, by(nginx), yes, yes},
		{"all holders", []string{"nginx", "java"}, by(nginx, java), yes, yes},
		{"one of two holders", []string{"nginx"}, by(nginx, java), no, yes},
		{"one, and who else is not known", []string{"nginx"}, some(nginx), unknown, yes},
		{"another, and who else is not known", []string{"java"}, some(nginx), no, unknown},
		{"nobody has looked", []string{"nginx"}, nil, unknown, unknown},
		{"nobody was seen", []string{"nginx"}, some(), unknown, unknown},
		{"nobody holds it", []string{"nginx"}, by(), unknown, unknown},
		{"the kernel holds it", []string{"nginx"}, &subject.Holders{Kernel: true, Complete: true}, unknown, unknown},
		{"as the kernel cuts it", []string{"a-long-named-sc"}, by(script), yes, yes},
		{"longer than the kernel says", []string{"a-long-named-script.py"}, by(script), unknown, unknown},
		{"another of that length", []string{"a-long-named-xcript.py"}, by(script), no, no},
		{"of an unknown program", []string{"java"}, by(hidden), unknown, unknown},
		{"of an unknown program, by its name", []string{"other"}, by(hidden), yes, yes},
		{"nothing is known of it", []string{"*a"}, by(sock.Holder{PID: 5}), unknown, unknown},
	} {
		t.Run(test.title, func(t *testing.T) {
			socket := full(ssfilter.CloseWait)
			s := subject.Subject{Socket: &socket, Holders: test.held}
			m := rules.Match{States: ssfilter.AllStates, Processes: test.names}
			if got := Lasts(&m, s); got != test.matches {
				t.Errorf("it matches: %d, want %d", got, test.matches)
			}
			if got := Any([]rules.Match{m}, s); got != test.spares {
				t.Errorf("it is excluded: %d, want %d", got, test.spares)
			}
			r := Rule{Rule: rules.Rule{Match: []rules.Match{{States: ssfilter.AllStates}}, Exclude: []rules.Match{m}}}
			if decision, _ := r.Decide(&rules.Action{Kind: rules.Kill}, &track.Times{Queued: sock.Never}, s, 0, 1, true); (decision == Due) != (test.spares == no) {
				t.Errorf("excluded, decision %d", decision)
			}
			if got := Guard(s, []rules.Match{m}, Capabilities{}, 99); (got == Protected) == (test.spares == no) {
				t.Errorf("protected: %q", got)
			}
		})
	}
}

// Where a process belongs is asked of each holder; what is not known of one is unknown, and
// what it certainly has not is another.
func TestOwner(t *testing.T) {
	const no, unknown, yes = ssfilter.False, ssfilter.Unknown, ssfilter.True
	const id = "fa7f0ec4fbcbb70c69565a5b2d269926e04ec5601dff59235199d6e60198e95c"
	is := func(text string) sock.Fact { return sock.Fact{Text: text, Known: true} }
	none := sock.Fact{Known: true}
	pod := &sock.Owner{Unit: is("cri-containerd-" + id + ".scope"), ContainerID: is(id), Container: "java", PodUID: is("1"), Pod: "payments/api-1"}
	nameless := &sock.Owner{Unit: none, ContainerID: is(id), PodUID: is("1")}
	byID := &sock.Owner{ContainerID: is(id), Container: "java", Pod: "payments/api-1"}
	service := &sock.Owner{Unit: is("nginx.service"), ContainerID: none, PodUID: none}
	hidden := &sock.Owner{}
	units := func(names ...string) rules.Match { return rules.Match{Units: names} }
	containers := func(names ...string) rules.Match { return rules.Match{Containers: names} }
	pods := func(names ...string) rules.Match { return rules.Match{Pods: names} }
	shop := &sock.Owner{CmdlineAsked: sock.Patterns([]string{"shop", "web"}), CmdlineMeets: sock.Patterns([]string{"shop"})}
	cmdlines := func(patterns ...string) rules.Match { return rules.Match{Cmdlines: patterns} }
	both := rules.Match{Pods: []string{"payments/*"}, Containers: []string{"java"}, Processes: []string{"java"}}
	nginxInPod := rules.Match{Units: []string{"nginx.service"}, Pods: []string{"payments/*"}}
	for _, test := range []struct {
		title   string
		match   rules.Match
		owners  []*sock.Owner
		matches ssfilter.Tri
		spares  ssfilter.Tri
	}{
		{"a unit", units("nginx.service"), []*sock.Owner{service}, yes, yes},
		{"one of several units", units("a.service", "ng*.service"), []*sock.Owner{service}, yes, yes},
		{"another unit", units("nginx.socket"), []*sock.Owner{service}, no, no},
		{"no unit", units("*.service"), []*sock.Owner{nameless}, no, no},
		{"an unknown unit", units("nginx.service"), []*sock.Owner{hidden}, unknown, unknown},
		{"nothing is known", units("nginx.service"), []*sock.Owner{nil}, unknown, unknown},
		{"one holder of another unit", units("nginx.service"), []*sock.Owner{service, pod}, no, yes},
		{"one holder of an unknown unit", units("nginx.service"), []*sock.Owner{service, hidden}, unknown, yes},

		{"a container", containers("java"), []*sock.Owner{pod}, yes, yes},
		{"a container by a wildcard", containers("ja?a", "x"), []*sock.Owner{pod}, yes, yes},
		{"another container", containers("app"), []*sock.Owner{pod}, no, no},
		{"a container by its id", containers(id), []*sock.Owner{nameless}, yes, yes},
		{"a container by the beginning of its id", containers(id[:12]), []*sock.Owner{nameless}, yes, yes},
		{"another by its id", containers("0" + id[1:]), []*sock.Owner{nameless}, no, no},
		{"too little of an id is a name", containers(id[:11]), []*sock.Owner{pod}, no, no},
		{"a container without a name", containers("java"), []*sock.Owner{nameless}, unknown, unknown},
		{"in no container", containers("java"), []*sock.Owner{service}, no, no},
		{"in no container, by an id", containers(id), []*sock.Owner{service}, no, no},
		{"an unknown container", containers("java"), []*sock.Owner{hidden}, unknown, unknown},

		{"a pod", pods("payments/api-1"), []*sock.Owner{pod}, yes, yes},
		{"a pod by a wildcard", pods("pay*/*"), []*sock.Owner{pod}, yes, yes},
		{"a pod of another namespace", pods("pay/*"), []*sock.Owner{pod}, no, no},
		{"another pod", pods("payments/web-*"), []*sock.Owner{pod}, no, no},
		{"a wildcard stops at the slash", pods("*/1"), []*sock.Owner{pod}, no, no},
		{"a pod without a name", pods("payments/*"), []*sock.Owner{nameless}, unknown, unknown},
		{"a pod that its container tells", pods("payments/*"), []*sock.Owner{byID}, yes, yes},
		{"in no pod", pods("*/*"), []*sock.Owner{service}, no, no},
		{"an unknown pod", pods("*/*"), []*sock.Owner{hidden}, unknown, unknown},
		{"two of one pod", pods("payments/*"), []*sock.Owner{pod, byID}, yes, yes},

		{"a command line", cmdlines("shop"), []*sock.Owner{shop}, yes, yes},
		{"one of several command lines", cmdlines("web", "shop"), []*sock.Owner{shop}, yes, yes},
		{"another command line", cmdlines("web"), []*sock.Owner{shop}, no, no},
		{"a command line that was not compared", cmdlines("web", "sho"), []*sock.Owner{shop}, unknown, unknown},
		{"no command line was compared", cmdlines("shop"), []*sock.Owner{hidden}, unknown, unknown},

		{"all of several keys", both, []*sock.Owner{pod}, yes, yes},
		{"not all of several keys", both, []*sock.Owner{service}, no, no},
		{"each of two keys holds for another", nginxInPod, []*sock.Owner{pod, service}, no, no},
	} {
		t.Run(test.title, func(t *testing.T) {
			held := &subject.Holders{Complete: true}
			for i, o := range test.owners {
				held.Processes = append(held.Processes, sock.Holder{PID: i + 1, Comm: "java", Exe: "java", Owner: o})
			}
			socket := full(ssfilter.CloseWait)
			s := subject.Subject{Socket: &socket, Holders: held}
			m := test.match
			m.States = ssfilter.AllStates
			if got := Lasts(&m, s); got != test.matches {
				t.Errorf("it matches: %d, want %d", got, test.matches)
			}
			if got := Any([]rules.Match{m}, s); got != test.spares {
				t.Errorf("it is excluded: %d, want %d", got, test.spares)
			}
			if got := Guard(s, []rules.Match{m}, Capabilities{}, 99); (got == Protected) == (test.spares == no) {
				t.Errorf("protected: %q", got)
			}
			if r := newRule(&rules.Rule{Match: []rules.Match{m}}, 0); !r.NeedsHolders || !r.Volatile {
				t.Error("the rule does not say that it asks who holds sockets")
			}
		})
	}
}

// Command lines are compared with what the rules in force ask, and protect, each once.
func TestCmdlines(t *testing.T) {
	m := func(patterns ...string) []rules.Match { return []rules.Match{{Cmdlines: patterns}} }
	p := Compile(&rules.Set{Protect: m("c"), Rules: []rules.Rule{
		{Enabled: true, Match: m("b", "a"), Exclude: m("c", "d")},
		{Match: m("of one that is disabled")},
	}})
	if want := []string{"a", "b", "c", "d"}; !slices.Equal(p.Cmdlines, want) {
		t.Errorf("%q, want %q", p.Cmdlines, want)
	}
	if p := Compile(&rules.Set{}); len(p.Cmdlines) > 0 {
		t.Errorf("%q where no rule asks", p.Cmdlines)
	}
}

// Where it is not known who holds a socket, a decision says what it would be if they were
// those that the rule means; what else stands against it does so all the same.
func TestDecideBut(t *testing.T) {
	plain := rules.Match{States: 1 << ssfilter.CloseWait}
	nginx, java := plain, rules.Match{States: ssfilter.AllStates, Processes: []string{"java"}}
	nginx.Processes = []string{"nginx"}
	unread := rules.Match{States: ssfilter.AllStates, Unread: &rules.Threshold{Op: rules.Equal, Number: 0}}
	javaUnread := java
	javaUnread.Unread = unread.Unread
	for _, test := range []struct {
		name    string
		match   rules.Match
		exclude []rules.Match
		change  func(*sock.Socket)
		want    Decision
	}{
		{"a process matches", nginx, nil, nil, Due},
		{"a process is excluded", plain, []rules.Match{java}, nil, Due},
		{"both", nginx, []rules.Match{java, javaUnread}, nil, Due},
		{"another state", nginx, nil, func(s *sock.Socket) { s.State = ssfilter.Established }, NotDue},
		{"it is in use", nginx, nil, func(s *sock.Socket) { s.WQueue = 1 }, Blocked},
		{"it is excluded whoever holds it", nginx, []rules.Match{unread}, nil, Blocked},
		{"one of those that exclude it asks for no process", nginx, []rules.Match{java, unread}, nil, Blocked},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := full(ssfilter.CloseWait)
			if test.change != nil {
				test.change(&s)
			}
			r := Rule{Rule: rules.Rule{Match: []rules.Match{test.match}, Exclude: test.exclude}}
			if got, _ := r.DecideBut(&rules.Action{Kind: rules.Kill}, &track.Times{Queued: sock.Never}, subject.Of(&s), 0, 1, true); got != test.want {
				t.Errorf("decision %d, want %d", got, test.want)
			}
			if got, _ := r.Decide(&rules.Action{Kind: rules.Kill}, &track.Times{Queued: sock.Never}, subject.Of(&s), 0, 1, true); got == Due {
				t.Error("it is due although nobody knows who holds it")
			}
		})
	}
}

// A socket that is protected whoever holds it needs no walk; one that only its holder may
// protect does.
func TestGuardBut(t *testing.T) {
	s := full(ssfilter.CloseWait)
	s.MPTCP = true
	java := rules.Match{States: ssfilter.AllStates, Processes: []string{"java"}}
	for _, test := range []struct {
		name    string
		protect []rules.Match
		mptcp   bool
		want    Reason
	}{
		{"nothing", nil, false, ""},
		{"its holder may", []rules.Match{java}, false, ""},
		{"its state does", []rules.Match{java, {States: 1 << ssfilter.CloseWait}}, false, Protected},
		{"what it is", []rules.Match{java}, true, MPTCPSubflow},
	} {
		s.MPTCP = test.mptcp
		p := Compile(&rules.Set{Protect: test.protect})
		if got := p.GuardBut(&s, Capabilities{}, 99); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
		if p.HoldersDecide() {
			t.Errorf("%s: no rule kills, and holders decide", test.name)
		}
	}
}

// What the kernel may have cut could be any longer name.
func TestFitsLonger(t *testing.T) {
	for _, test := range []struct {
		pattern, text string
		want          bool
	}{
		{"abc", "ab", true}, {"ab", "ab", false}, {"a", "ab", false}, {"xbc", "ab", false}, {"a?c", "ab", true}, {"??", "ab", false},
		{"ab*", "ab", true}, {"*x", "ab", true}, {"a*x", "ab", true}, {"b*", "ab", false}, {"abc*", "ab", true}, {"äb", "ä", true},
	} {
		if got := fitsLonger(test.pattern, test.text); got != test.want {
			t.Errorf("%q for what begins with %q: %v", test.pattern, test.text, got)
		}
	}
}

// A rule says that it needs holders, and so do those that protect; how much room its
// sockets get is decided before anybody has looked for them.
func TestNeedsHolders(t *testing.T) {
	const state = 1 << ssfilter.CloseWait
	plain, nginx := rules.Match{States: state}, rules.Match{States: state, Processes: []string{"nginx"}}
	socket := full(ssfilter.CloseWait)
	kill := []rules.Action{{Kind: rules.Kill}}
	other := &subject.Holders{Processes: []sock.Holder{{PID: 1, Comm: "java", Exe: "java"}}, Complete: true}
	for _, test := range []struct {
		title                   string
		rule                    rules.Rule
		protect                 []rules.Match
		needs, protectNeeds     bool
		before, byNginx, byJava bool // it would be killed: before anybody has looked, and held by these
	}{
		{"none", rules.Rule{Match: []rules.Match{plain}}, nil, false, false, true, true, true},
		{"match", rules.Rule{Match: []rules.Match{nginx}}, nil, true, false, true, true, false},
		{"exclude", rules.Rule{Match: []rules.Match{plain}, Exclude: []rules.Match{nginx}}, nil, true, false, true, false, true},
		{"protect", rules.Rule{Match: []rules.Match{plain}}, []rules.Match{nginx}, false, true, true, false, true},
	} {
		t.Run(test.title, func(t *testing.T) {
			test.rule.Enabled, test.rule.Then = true, kill
			p := Compile(&rules.Set{Rules: []rules.Rule{test.rule}, Protect: test.protect})
			if r := p.Rules[0]; r.NeedsHolders != test.needs || r.Volatile != test.needs || p.ProtectNeedsHolders != test.protectNeeds {
				t.Errorf("the rule needs holders: %v, it is volatile: %v, protect needs them: %v", r.NeedsHolders, r.Volatile, p.ProtectNeedsHolders)
			}
			held := &subject.Holders{Processes: []sock.Holder{{PID: 2, Comm: "nginx", Exe: "nginx"}}, Complete: true}
			for _, by := range []struct {
				held *subject.Holders
				want bool
			}{{nil, test.before}, {held, test.byNginx}, {other, test.byJava}} {
				if got := p.WouldKill(subject.Subject{Socket: &socket, Holders: by.held}); got != by.want {
					t.Errorf("held by %+v it would be killed: %v", by.held, got)
				}
			}
		})
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

// However many wildcards there are, a pattern is compared in no time: what tries each of
// them anew for each of the others would take years.
func TestFitsInNoTime(t *testing.T) {
	text := strings.Repeat("a", 255)
	for _, pattern := range []string{strings.Repeat("*a", 10_000) + "b", strings.Repeat("*a", 200) + "b", "*" + strings.Repeat("a?*", 80) + "b"} {
		if fits(pattern, text) {
			t.Errorf("%.10s... fits what does not end in b", pattern)
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
