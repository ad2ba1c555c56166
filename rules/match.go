package rules

import (
	"errors"
	"net/netip"
	"os/user"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"gopkg.in/yaml.v3"

	"github.com/sockdog/sockdog/rules/ssfilter"
)

// selection is one mapping of match, exclude or protect as it stands in the file.
type selection struct {
	Match
	at     *yaml.Node
	given  given
	broken bool // something in it could not be read

	filter, sport, dport, src, dst ssfilter.Expr
	terms                          []ssfilter.Expr // those of them that are given
}

const (
	// dead are the states in which no socket is live. fin-wait-2 is not among
	// them: without an inode such a socket is dead, with one it may receive for
	// hours, and a rule that names the state names both.
	dead ssfilter.StateSet = 1<<ssfilter.CloseWait | 1<<ssfilter.TimeWait
	// passing are live states that no healthy connection stays in for long.
	passing ssfilter.StateSet = 1<<ssfilter.SynSent | 1<<ssfilter.SynRecv | 1<<ssfilter.FinWait1 | 1<<ssfilter.LastAck | 1<<ssfilter.Closing
	// unconnected are the states that no action ever touches.
	unconnected ssfilter.StateSet = 1<<ssfilter.Listening | 1<<ssfilter.Close | 1<<ssfilter.BoundInactive
)

// narrow reports whether the mapping names a port, an address, an owner or a filter.
func (s *selection) narrow() bool {
	return slices.ContainsFunc([]string{
		"filter", "sport", "dport", "src", "dst",
		"process", "cmdline", "user", "cgroup", "unit", "container", "pod",
	}, s.given.has)
}

// Keys that say which sockets, and keys that say how long; match takes both,
// exclude and protect only the former.
var (
	whichKeys = []key[selection]{
		field("state", "TCP states, in ss's spelling, or its groups (all, connected, synchronized, bucket, big); absent: all but listening",
			union(severalOf(state)), func(s *selection) *ssfilter.StateSet { return &s.States }),
		field("filter", "an expression as ss takes it, such as \"dport = 5432 and not dst 10.0.0.0/8\"",
			anyExpr(anyOf(filter)), func(s *selection) *ssfilter.Expr { return &s.filter }),
		field("sport", "local port: a number, a range \"5000-5999\" or a service name",
			ports(ssfilter.Src), func(s *selection) *ssfilter.Expr { return &s.sport }),
		field("dport", "the peer's port: a number, a range \"5000-5999\" or a service name",
			ports(ssfilter.Dst), func(s *selection) *ssfilter.Expr { return &s.dport }),
		field("src", "local address, or network in CIDR form",
			hosts(ssfilter.Src), func(s *selection) *ssfilter.Expr { return &s.src }),
		field("dst", "the peer's address, or network in CIDR form",
			hosts(ssfilter.Dst), func(s *selection) *ssfilter.Expr { return &s.dst }),
		later[selection]("process"),
		later[selection]("cmdline"),
		field("user", "the user that owns the socket, by name or number",
			severalOf(userID), func(s *selection) *[]uint32 { return &s.Users }),
		later[selection]("cgroup"),
		later[selection]("unit"),
		later[selection]("container"),
		later[selection]("pod"),
		later[selection]("netns"),
		field("unread", "bytes in the receive queue, such as \"> 1\"",
			threshold, func(s *selection) **Threshold { return &s.Unread }),
		field("in_backlog", "whether the socket waits in an accept queue",
			pointer(boolean), func(s *selection) **bool { return &s.InBacklog }),
		field("verdict", "why a socket is in close-wait",
			severalOf(oneOf("verdict", EOFUnread, EOFReadNotClosed, UnreadData, StillSending, InBacklog)),
			func(s *selection) *[]Verdict { return &s.Verdicts }),
	}

	timeKeys = []key[selection]{
		field("in_state_for", "time in the present TCP state", duration, func(s *selection) *time.Duration { return &s.InStateFor }),
		field("idle_for", "no progress for that long, and nothing queued or unacknowledged", duration, func(s *selection) *time.Duration { return &s.IdleFor }),
		field("stalled_for", "data queued or unacknowledged, and no progress for that long: a dead peer", duration, func(s *selection) *time.Duration { return &s.StalledFor }),
	}

	// An age is a lower bound. Whether a socket is younger than something is
	// therefore never certain, and a socket is only acted on where exclude and
	// protect certainly do not hold.
	noTime phrase = "cannot stand here: an age is known as \"at least\", so that a younger socket is never certainly outside; put the time into match"

	matchTable   = table[selection]{what: "match", keys: slices.Concat(whichKeys, timeKeys)}
	exclusion    = slices.Concat(whichKeys, refuseAll(timeKeys, noTime))
	excludeTable = table[selection]{what: "exclude", keys: exclusion}
	protectTable = table[selection]{what: "protect", keys: exclusion}
)

func refuseAll(keys []key[selection], why phrase) []key[selection] {
	all := make([]key[selection], 0, len(keys))
	for _, k := range keys {
		all = append(all, refused[selection](k.name, why))
	}
	return all
}

// mapping reads a selection by its table; states are those meant where it names none.
func mapping(t table[selection], states ssfilter.StateSet) value[*selection] {
	return value[*selection]{
		read: func(p *parser, n *yaml.Node) *selection {
			s := &selection{at: n, Match: Match{States: states}}
			before := p.reports
			s.given = readMapping(p, n, t, s)
			for _, x := range []ssfilter.Expr{s.filter, s.sport, s.dport, s.src, s.dst} {
				if x != nil {
					s.terms = append(s.terms, x)
				}
			}
			s.Where = ssfilter.And(s.terms...)
			if s.broken = p.reports > before; !s.broken {
				p.checkSelection(s)
				s.broken = p.reports > before
			}
			return s
		},
		schema: t.schema(),
	}
}

// checkSelection reports a mapping that can never hold, or always does.
func (p *parser) checkSelection(s *selection) {
	if s.given != nil && len(s.given) == 0 {
		p.report(s.at, "an empty mapping holds for every socket: name a state, a port or an address")
	}
	if s.IdleFor > 0 && s.StalledFor > 0 {
		p.report(s.given["stalled_for"], "stalled_for and idle_for never hold together: one wants data queued, the other none")
	}
	if len(s.Verdicts) > 0 && s.States != 0 && !s.States.Has(ssfilter.CloseWait) {
		p.report(s.given["verdict"], "a verdict is about close-wait, which the states of this mapping leave out")
	}
}

// protected is one entry of protect: a mapping, or a filter alone.
var protected = value[*selection]{
	read: func(p *parser, n *yaml.Node) *selection {
		if target(n).Kind == yaml.ScalarNode {
			expr := filter.read(p, n)
			s := &selection{at: n, broken: expr == nil, Match: Match{States: ssfilter.AllStates, Where: expr}, filter: expr}
			if expr != nil {
				s.terms = []ssfilter.Expr{expr}
			}
			return s
		}
		return protection.read(p, n)
	},
	schema: schema{"anyOf": []schema{filter.schema, protection.schema}},
}

var protection = mapping(protectTable, ssfilter.AllStates)

var state = scalar("the name of a TCP state", schema{"anyOf": []schema{{"enum": stateNames()}, {"type": "string"}}}, ssfilter.ParseState)

// stateNames are what an editor offers; the parser knows more spellings.
func stateNames() []string {
	var names []string
	for _, s := range ssfilter.AllStates.States() {
		names = append(names, s.String())
	}
	return append(names, "all", "connected", "synchronized", "bucket", "big")
}

// union makes one set of several.
func union(sets value[[]ssfilter.StateSet]) value[ssfilter.StateSet] {
	return convert(sets, func(sets []ssfilter.StateSet) ssfilter.StateSet {
		var all ssfilter.StateSet
		for _, set := range sets {
			all |= set
		}
		return all
	})
}

// anyExpr makes one expression of several, of which any may hold.
func anyExpr(exprs value[[]ssfilter.Expr]) value[ssfilter.Expr] {
	return convert(exprs, func(exprs []ssfilter.Expr) ssfilter.Expr { return ssfilter.Or(exprs...) })
}

func pointer[V any](v value[V]) value[*V] {
	return convert(v, func(v V) *V { return &v })
}

// filter is an expression of ss. An error in it is reported at its place within
// the YAML value.
var filter = value[ssfilter.Expr]{
	read: func(p *parser, n *yaml.Node) ssfilter.Expr {
		if n = p.scalar(n, "an expression of ss"); n == nil {
			return nil
		}
		expr, err := ssfilter.ParseExpr(n.Value)
		var syntax *ssfilter.SyntaxError
		if errors.As(err, &syntax) {
			line, column := p.within(n, syntax.Offset)
			p.reportAt(line, column, "%s", phrase(syntax.Msg))
		} else if err != nil {
			p.report(n, "%v", err)
		}
		return expr
	},
	schema: schema{"type": "string", "minLength": 1},
}

// escapes are the usual ones in double quotes.
var escapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`)

// within returns where the byte offset of a scalar's value stands in the file, or
// where the scalar does if it is folded, takes several lines in quotes, or holds
// unusual escapes before it.
func (p *parser) within(n *yaml.Node, offset int) (line, column int) {
	before, after := n.Value[:min(offset, len(n.Value))], n.Value[min(offset, len(n.Value)):]
	if n.Style == yaml.LiteralStyle {
		line := n.Line + 1 + strings.Count(before, "\n") // the first is that of the |
		before = before[strings.LastIndex(before, "\n")+1:]
		after, _, _ = strings.Cut(after, "\n")
		indent, ok := strings.CutSuffix(p.line(line), before+after)
		if !ok || strings.Trim(indent, " ") != "" {
			return n.Line, n.Column
		}
		return line, len(indent) + utf8.RuneCountInString(before) + 1
	}
	source := p.from(n)
	skipped := 0
	if strings.HasPrefix(source, "&") {
		value := strings.TrimLeft(source[len(anchorName(source)):], " \t")
		source, skipped = value, len(source)-len(value)
	}
	switch n.Style {
	case yaml.SingleQuotedStyle:
		before = "'" + strings.ReplaceAll(before, "'", "''")
	case yaml.DoubleQuotedStyle:
		before = `"` + escapes.Replace(before)
	}
	if !strings.HasPrefix(source, before) {
		return n.Line, n.Column
	}
	return n.Line, n.Column + skipped + utf8.RuneCountInString(before)
}

// ports is one or several ports of a side.
func ports(side ssfilter.Side) value[ssfilter.Expr] {
	return convert(severalOf(portRange), func(ranges []ssfilter.PortRange) ssfilter.Expr {
		return ssfilter.Ports(side, ranges...)
	})
}

var (
	twoPorts    = regexp.MustCompile(`^([0-9]\S*) ?- ?([0-9]\S*)$`)
	serviceName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._+-]*$`)
)

var portRange = scalar("a port", schema{"anyOf": []schema{
	{"type": "integer", "minimum": 1, "maximum": 65535},
	{"type": "string", "minLength": 1},
}}, func(text string) (ssfilter.PortRange, error) {
	var r ssfilter.PortRange
	if ends := twoPorts.FindStringSubmatch(cutTo(text, maxShown)); ends != nil {
		first, err := number(ends[1], 1, 65535)
		if err != nil {
			return r, err
		}
		last, err := number(ends[2], 1, 65535)
		if err != nil {
			return r, err
		}
		if first > last {
			return r, errorf("the range %s is empty: write %d-%d", text, last, first)
		}
		return ssfilter.PortRange{First: uint16(first), Last: uint16(last)}, nil
	}
	if isNumber(text) {
		port, err := number(text, 1, 65535)
		return ssfilter.PortRange{First: uint16(port), Last: uint16(port)}, err
	}
	if !serviceName.MatchString(text) {
		return r, errorf("%q is not a port: write a number, a range such as \"5000-5999\" or a service name; comparisons belong into filter", text)
	}
	port, err := ssfilter.ParsePort(text)
	return ssfilter.PortRange{First: port, Last: port}, err
})

// hosts is one or several addresses or networks of a side.
func hosts(side ssfilter.Side) value[ssfilter.Expr] {
	return convert(severalOf(network), func(prefixes []netip.Prefix) ssfilter.Expr {
		return ssfilter.Hosts(side, prefixes...)
	})
}

var network = scalar("an address", schema{"type": "string", "minLength": 2}, func(text string) (netip.Prefix, error) {
	if inner, ok := strings.CutPrefix(text, "["); ok && strings.HasSuffix(inner, "]") {
		return netip.Prefix{}, errorf("write the address without brackets: %s", strings.TrimSuffix(inner, "]"))
	}
	if end, err := netip.ParseAddrPort(text); err == nil {
		return netip.Prefix{}, errorf("the port has keys of its own: write %s here and %d into sport or dport", end.Addr(), end.Port())
	}
	prefix, err := ssfilter.ParsePrefix(text)
	if err != nil {
		return prefix, err
	}
	if written, err := netip.ParsePrefix(text); err == nil && written.Masked().Addr() != written.Addr() {
		return prefix, errorf("%s is an address within a network: write %s for the network or %s for the address", text, prefix, written.Addr())
	}
	return prefix, nil
})

// maxUsers is how many users are looked up by name for a file. To look one up may
// mean to ask a directory service.
const maxUsers = 100

// userID is a user's number. Each name is looked up once for a file.
var userID = value[uint32]{
	read: func(p *parser, n *yaml.Node) uint32 {
		if n = p.scalar(n, "a user"); n == nil {
			return 0
		}
		var id uint32
		var err error
		if isNumber(n.Value) {
			var n64 uint64
			n64, err = number(n.Value, 0, 1<<32-2) // (uid_t)-1 is no user
			id = uint32(n64)
		} else if known, ok := p.users[n.Value]; ok {
			id, err = known.id, known.err
		} else if len(p.users) < maxUsers {
			id, err = lookupUser(n.Value)
			p.users[n.Value] = lookedUp{id, err}
		} else {
			err = errorf("more than %d users are named in this file: write the number of this one", maxUsers)
		}
		if err != nil {
			p.report(n, "%v", err)
			return 0
		}
		return id
	},
	schema: schema{"type": []string{"string", "integer"}},
}

// lookedUp is what the machine said of a user.
type lookedUp struct {
	id  uint32
	err error
}

func lookupUser(name string) (uint32, error) {
	found, err := user.Lookup(name)
	if err != nil {
		return 0, errorf("this machine has no user %q: write the number of the user", name)
	}
	n, err := strconv.ParseUint(found.Uid, 10, 32)
	if err != nil {
		return 0, errorf("the user %q has the number %q, which is none: write the number", name, found.Uid)
	}
	return uint32(n), nil
}
