package rules

import (
	"errors"
	"net/netip"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/sockdog/sockdog/rules/internal/document"
	"github.com/sockdog/sockdog/rules/internal/message"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// selection is one mapping of match, exclude or protect as it stands in the file.
type selection struct {
	Match
	at     *yaml.Node
	given  document.Given
	broken bool // something in it could not be read

	filter, sport, dport, src, dst ssfilter.Expr
	terms                          []ssfilter.Expr // those of them that are given
}

// join makes one expression of those that are given.
func (s *selection) join() {
	for _, x := range []ssfilter.Expr{s.filter, s.sport, s.dport, s.src, s.dst} {
		if x != nil {
			s.terms = append(s.terms, x)
		}
	}
	s.Where = ssfilter.And(s.terms...)
}

// passing are live states that no healthy connection stays in for long.
const passing ssfilter.StateSet = 1<<ssfilter.SynSent | 1<<ssfilter.SynRecv | 1<<ssfilter.FinWait1 | 1<<ssfilter.LastAck | 1<<ssfilter.Closing

// narrow reports whether the mapping names a port, an address, an owner or a filter.
func (s *selection) narrow() bool {
	return slices.ContainsFunc([]string{
		"filter", "sport", "dport", "src", "dst",
		"process", "cmdline", "user", "cgroup", "unit", "container", "pod",
	}, s.given.Has)
}

// bounds names the keys that may say how long, in a rule that takes sockets in these states.
func (s *selection) bounds() message.Phrase {
	unknown := !s.given.Wrote("state") || s.States == 0
	names := []string{"idle_for"}
	if unknown || s.States&^ssfilter.Dead == 0 {
		names = []string{"in_state_for", "idle_for"}
	}
	if unknown || s.States&^settled != 0 {
		names = append(names, "stalled_for")
	}
	if unknown || s.States&^ended != 0 {
		names = append(names, "silent_for")
	}
	return message.Or(names)
}

// confined reports whether the mapping says whose sockets it means among those of all
// network namespaces. The name of a process does not: any container may hold one of
// that name.
func (s *selection) confined() bool {
	unread := s.given.Has("filter") && s.filter == nil // which has been reported
	return unread || ssfilter.WithinCgroups(s.filter) ||
		slices.ContainsFunc([]string{"netns", "cgroup", "user", "unit", "container", "pod"}, s.given.Has)
}

// Keys that say which sockets, and keys that say how long; match takes both,
// exclude and protect only the former.
var (
	whichKeys = []document.Key[selection]{
		document.Field("state", union(document.SeveralOf(state)), func(s *selection) *ssfilter.StateSet { return &s.States }),
		document.Field("filter", document.Convert(document.AnyOf(filter), anyExpr), func(s *selection) *ssfilter.Expr { return &s.filter }),
		document.Field("sport", ports(ssfilter.Src), func(s *selection) *ssfilter.Expr { return &s.sport }),
		document.Field("dport", ports(ssfilter.Dst), func(s *selection) *ssfilter.Expr { return &s.dport }),
		document.Field("src", hosts(ssfilter.Src), func(s *selection) *ssfilter.Expr { return &s.src }),
		document.Field("dst", hosts(ssfilter.Dst), func(s *selection) *ssfilter.Expr { return &s.dst }),
		document.Field("user", document.SeveralOf(userID), func(s *selection) *[]uint32 { return &s.Users }),
		document.Field("netns", document.SeveralOf(netns), func(s *selection) *[]Netns { return &s.Netns }),
		document.Field("cgroup", document.SeveralOf(cgroup), func(s *selection) *[]string { return &s.Cgroups }),
		document.Field("process", document.SeveralOf(process), func(s *selection) *[]string { return &s.Processes }),
		document.Field("cmdline", document.AnyOf(cmdline), func(s *selection) *[]string { return &s.Cmdlines }),
		document.Field("unit", document.SeveralOf(unit), func(s *selection) *[]string { return &s.Units }),
		document.Field("container", document.SeveralOf(container), func(s *selection) *[]string { return &s.Containers }),
		document.Field("pod", document.SeveralOf(pod), func(s *selection) *[]string { return &s.Pods }),
		document.Field("unread", threshold, func(s *selection) **Threshold { return &s.Unread }),
		document.Field("in_backlog", document.Convert(document.Boolean, func(b bool) *bool { return &b }), func(s *selection) **bool { return &s.InBacklog }),
		document.Field("keepalive", document.Convert(document.Boolean, func(b bool) *bool { return &b }), func(s *selection) **bool { return &s.Keepalive }),
		document.Field("verdict", document.SeveralOf(document.OneOf("verdict", EOFUnread, EOFReadNotClosed, UnreadData, StillSending, InBacklog)),
			func(s *selection) *[]Verdict { return &s.Verdicts }),
	}

	timeKeys = []document.Key[selection]{
		document.Field("in_state_for", duration, func(s *selection) *time.Duration { return &s.InStateFor }),
		document.Field("idle_for", duration, func(s *selection) *time.Duration { return &s.IdleFor }),
		document.Field("stalled_for", duration, func(s *selection) *time.Duration { return &s.StalledFor }),
		document.Field("silent_for", duration, func(s *selection) *time.Duration { return &s.SilentFor }),
	}

	// An age is a lower bound. Whether a socket is younger than something is
	// therefore never certain, and a socket is only acted on where exclude and
	// protect certainly do not hold.
	noTime message.Phrase = "cannot stand here: an age is known as \"at least\", so that a younger socket is never certainly outside; put the time into match"

	matchTable = selectionTable("match", slices.Concat(whichKeys, timeKeys))
	exclusion  = slices.Concat(whichKeys, []document.Key[selection]{
		document.Refused[selection]("in_state_for", noTime), document.Refused[selection]("idle_for", noTime), document.Refused[selection]("stalled_for", noTime),
		document.Refused[selection]("silent_for", noTime),
	})
	excludeTable = selectionTable("exclude", exclusion)
	protectTable = selectionTable("protect", exclusion)
)

func selectionTable(what string, keys []document.Key[selection]) document.Table[selection] {
	sides, netns, process := []string{"src", "dst"}, []string{"netns"}, []string{"process"}
	return document.Table[selection]{What: what, Keys: keys, Synonyms: map[string][]string{
		"address": sides, "addr": sides, "ip": sides, "host": sides, "network": sides, "cidr": sides,
		"namespace": netns, "ns": netns, "network_namespace": netns,
		"service": {"unit"}, "systemd": {"unit"}, "systemd_unit": {"unit"}, "container_id": {"container"}, "container_name": {"container"}, "pod_name": {"pod"},
		"comm": process, "exe": process, "program": process, "executable": process, "command": process, "proc": process,
	}}
}

// mapping reads a selection by its table; states are those meant where it names none.
func mapping(t document.Table[selection], states ssfilter.StateSet) document.Value[*selection] {
	return func(r *document.Reader, n *yaml.Node) *selection {
		s := &selection{at: n, Match: Match{States: states}}
		before := r.Reports()
		s.given = document.ReadMapping(r, n, t, s)
		s.join()
		if s.broken = r.Reports() > before; !s.broken {
			checkSelection(r, s)
			s.broken = r.Reports() > before
		}
		return s
	}
}

// checkSelection reports a mapping that can never hold, or always does.
func checkSelection(r *document.Reader, s *selection) {
	if s.given != nil && len(s.given) == 0 {
		r.Report(s.at, "an empty mapping matches every socket: name a state, a port or an address")
	}
	if s.IdleFor > 0 && s.StalledFor > 0 {
		r.Report(s.given["stalled_for"], "stalled_for and idle_for never hold together: one needs queued data, the other none")
	}
	if len(s.Verdicts) > 0 && s.States != 0 && !s.States.Has(ssfilter.CloseWait) {
		r.Report(s.given["verdict"], "a verdict is about close-wait, which the states of this mapping leave out")
	}
}

// protected is one entry of protect: a mapping, or a filter alone.
func protected(r *document.Reader, n *yaml.Node) *selection {
	if document.Target(n).Kind != yaml.ScalarNode {
		return mapping(protectTable, ssfilter.AllStates)(r, n)
	}
	s := &selection{at: n, Match: Match{States: ssfilter.AllStates}, filter: filter(r, n)}
	s.broken = s.filter == nil
	s.join()
	return s
}

var state = document.Scalar("the name of a TCP state", ssfilter.ParseState)

// union makes one set of several.
func union(sets document.Value[[]ssfilter.StateSet]) document.Value[ssfilter.StateSet] {
	return document.Convert(sets, func(sets []ssfilter.StateSet) ssfilter.StateSet {
		var all ssfilter.StateSet
		for _, set := range sets {
			all |= set
		}
		return all
	})
}

// anyExpr makes one expression of several, of which any may hold.
func anyExpr(exprs []ssfilter.Expr) ssfilter.Expr { return ssfilter.Or(exprs...) }

// filter is an expression of ss. A mistake in it is reported at its place within the
// YAML value.
func filter(r *document.Reader, n *yaml.Node) ssfilter.Expr {
	if n = r.Scalar(n, "an expression of ss"); n == nil {
		return nil
	}
	expr, err := ssfilter.ParseExpr(n.Value)
	if syntax, ok := errors.AsType[*ssfilter.SyntaxError](err); ok {
		r.ReportWithin(n, syntax.Offset, syntax.Msg)
	}
	return expr
}

// ports is one or several ports of a side.
func ports(side ssfilter.Side) document.Value[ssfilter.Expr] {
	return document.Convert(document.SeveralOf(portRange), func(ranges []ssfilter.PortRange) ssfilter.Expr {
		return ssfilter.Ports(side, ranges...)
	})
}

var portRange = document.Scalar("a port", func(text string) (none ssfilter.PortRange, _ error) {
	from, to, several := strings.Cut(text, "-")
	if !several || !document.IsNumber(strings.TrimPrefix(to, " ")) {
		from, to = text, text
	}
	if document.IsNumber(from) {
		first, err := document.Number(strings.TrimSuffix(from, " "), 1, 65535)
		if err != nil {
			return none, err
		}
		last, err := document.Number(strings.TrimPrefix(to, " "), 1, 65535)
		if err != nil {
			return none, err
		}
		if first > last {
			return none, message.Errorf("the range %s is empty: write %d-%d", text, last, first)
		}
		return ssfilter.PortRange{First: uint16(first), Last: uint16(last)}, nil
	}
	if !document.Only(text, document.Letters+document.Digits+"._+-") || !document.Only(text[:1], document.Letters) {
		return none, message.Errorf("%q is not a port: write a number, a range such as \"5000-5999\" or a service name; comparisons belong in filter", text)
	}
	port, err := ssfilter.ParsePort(text)
	return ssfilter.PortRange{First: port, Last: port}, err
})

// hosts is one or several addresses or networks of a side.
func hosts(side ssfilter.Side) document.Value[ssfilter.Expr] {
	return document.Convert(document.SeveralOf(network), func(prefixes []netip.Prefix) ssfilter.Expr {
		return ssfilter.Hosts(side, prefixes...)
	})
}

var network = document.Scalar("an address", func(text string) (netip.Prefix, error) {
	if inner, ok := strings.CutPrefix(text, "["); ok && strings.HasSuffix(inner, "]") {
		return netip.Prefix{}, message.Errorf("write the address without brackets: %s", strings.TrimSuffix(inner, "]"))
	}
	if end, err := netip.ParseAddrPort(text); err == nil {
		return netip.Prefix{}, message.Errorf("the port has its own keys: write %s here and %d in sport or dport", end.Addr(), end.Port())
	}
	prefix, err := ssfilter.ParsePrefix(text)
	if err != nil {
		return prefix, err
	}
	if written, err := netip.ParsePrefix(text); err == nil && written.Masked().Addr() != written.Addr() {
		return prefix, message.Errorf("%s is an address within a network: write %s for the network or %s for the address", text, prefix, written.Addr())
	}
	return prefix, nil
})

// maxUsers is how many users are looked up by name for a file. To look one up may
// mean to ask a directory service.
const maxUsers = 100

// userID is the number of a user, by name or number.
func userID(r *document.Reader, n *yaml.Node) uint32 {
	if n = r.Scalar(n, "a user"); n == nil {
		return 0
	}
	id, err := parserOf(r).userID(n.Value)
	if err != nil {
		r.Report(n, "%v", err)
	}
	return id
}

func (p *parser) userID(text string) (uint32, error) {
	if document.IsNumber(text) {
		return ParseUser(text)
	}
	known, ok := p.users[text]
	if !ok {
		if len(p.users) == maxUsers {
			return 0, message.Errorf("more than %d users are named in this file: write the number of this one", maxUsers)
		}
		known.id, known.err = ParseUser(text)
		p.users[text] = known
	}
	return known.id, known.err
}

// lookedUp is what the machine said of a user.
type lookedUp struct {
	id  uint32
	err error
}

// ParseUser reads the number of a user, or the name of one of this machine's.
func ParseUser(name string) (uint32, error) {
	if document.IsNumber(name) {
		id, err := document.Number(name, 0, 1<<32-2) // (uid_t)-1 is no user
		return uint32(id), err
	}
	found, err := user.Lookup(name)
	if err != nil {
		return 0, message.Errorf("this machine has no user %q: write the number of the user", name)
	}
	n, err := strconv.ParseUint(found.Uid, 10, 32)
	if err != nil {
		return 0, message.Errorf("the user %q has the invalid number %q: write the number", name, found.Uid)
	}
	return uint32(n), nil
}
