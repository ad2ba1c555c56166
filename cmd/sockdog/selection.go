package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/sockdog/sockdog/internal/cgroup"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/source/sockdiag"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// selection is which sockets a command is about, said as to ss(8).
type selection struct {
	ipv4, ipv6, all, listening bool

	filter ssfilter.Filter
	used   *elsewhere // the first flag of ss that is none here
}

// flags adds those of ss that select, and answers the others with what to write
// instead: people paste.
func (s *selection) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVarP(&s.ipv4, "ipv4", "4", false, "IPv4 only")
	f.BoolVarP(&s.ipv6, "ipv6", "6", false, "IPv6 only; an IPv4-mapped address is IPv4")
	f.BoolVarP(&s.all, "all", "a", false, "listening sockets too")
	f.BoolVarP(&s.listening, "listening", "l", false, "listening sockets only")
	for _, same := range []struct{ name, letter string }{{"tcp", "t"}, {"numeric", "n"}, {"oneline", "O"}} {
		f.BoolP(same.name, same.letter, true, "as it is anyway; accepted for those who paste from ss")
		f.Lookup(same.name).Hidden = true
	}
	const tcpOnly = "sockdog knows TCP sockets only"
	for _, e := range []elsewhere{
		{name: "processes", letter: "p", instead: "write sockdog list -o wide: it shows the process that holds a socket"},
		{name: "threads", letter: "T", instead: "write sockdog list -o wide: it shows the process that holds a socket"},
		{name: "extended", letter: "e", instead: "write sockdog list -o wide: it shows user, inode and cookie"},
		{name: "cgroup", instead: "write sockdog list -o wide: it shows the control group"},
		{name: "options", instead: "the columns AGE and IDLE show what ss's timers let one guess"},
		{name: "info", letter: "i", instead: "the columns AGE and IDLE show what ss -i lets one guess; for the rest write ss -i"},
		{name: "memory", letter: "m", instead: "sockdog does not read it: write ss -m"},
		{name: "resolve", letter: "r", instead: "sockdog prints addresses as numbers; a filter may name hosts"},
		{name: "events", letter: "E", instead: "write sockdog list --watch"},
		{name: "net", letter: "N", instead: "write ip netns exec NAME sockdog ..."},
		{name: "family", letter: "f", instead: "write -4 or -6; sockdog knows TCP over IPv4 and IPv6"},
		{name: "filter", letter: "F", instead: "write the filter as arguments, such as \"$(cat FILE)\""},
		{name: "query", letter: "A", instead: tcpOnly},
		{name: "socket", instead: tcpOnly},
		{name: "udp", letter: "u", instead: tcpOnly},
		{name: "unix", letter: "x", instead: tcpOnly},
		{name: "raw", letter: "w", instead: tcpOnly},
		{name: "dccp", letter: "d", instead: tcpOnly},
		{name: "sctp", letter: "S", instead: tcpOnly},
		{name: "packet", letter: "0", instead: tcpOnly},
		{name: "mptcp", letter: "M", instead: "sockdog list shows the subflows of MPTCP connections, marked mptcp; for the connections write ss -M"},
	} {
		s.elsewhere(cmd, e)
	}
}

// elsewhere is a flag of ss that is none here.
type elsewhere struct{ name, letter, instead string }

// elsewhere adds a flag that parse answers with what to write instead: an error here
// would be wrapped in words about a bad value.
func (s *selection) elsewhere(cmd *cobra.Command, e elsewhere) {
	cmd.Flags().BoolFuncP(e.name, e.letter, e.instead, func(string) error {
		if s.used == nil {
			s.used = &e
		}
		return nil
	})
	cmd.Flags().Lookup(e.name).Hidden = true
}

// parse reads the filter, which may stand in one argument or in many. Its error
// is one of usage.
func (s *selection) parse(args []string) error {
	if e := s.used; e != nil {
		written := "--" + e.name
		if e.letter != "" {
			written = "-" + e.letter + ", " + written
		}
		return usage{fmt.Errorf("%s: %s", written, e.instead)}
	}
	text := strings.NewReplacer("\n", " ", "\t", " ").Replace(strings.Join(args, " "))
	if word := bareState(text); word != "" {
		return usage{fmt.Errorf("%q is a state: write state %s", word, word)}
	}
	var err error
	s.filter, err = ssfilter.ParseFilter(text, lookUp)
	var syntax *ssfilter.SyntaxError
	if errors.As(err, &syntax) {
		column := utf8.RuneCountInString(text[:syntax.Offset]) + 1
		report := rules.Problems{{Line: 1, Column: column, Msg: syntax.Msg, Text: text}}.Report("filter")
		return usage{errors.New(strings.TrimSuffix(report, "\n"))}
	}
	if err == nil {
		err = known(s.filter.Where)
	}
	return asUsage(err)
}

// known complains of a device or a cgroup that is not there, as ss does: with a
// mistake in its name, "not dev = eht0" would mean every socket.
func known(where ssfilter.Expr) error {
	devices, cgroups := ssfilter.Named(where)
	for _, name := range devices {
		if !sockdiag.HasDevice(name) {
			return fmt.Errorf("there is no device %q here: ip link shows which there are", name)
		}
	}
	if len(cgroups) == 0 {
		return nil
	}
	tree := cgroup.New()
	for _, name := range cgroups {
		if _, ok := tree.ID(name); !ok {
			return fmt.Errorf("there is no cgroup %q here: write its path as it follows the 0:: in /proc/PID/cgroup", name)
		}
	}
	return nil
}

// markless says what follows where the filter asks for marks and err is why the
// kernel does not tell them.
func (s *selection) markless(err error) error {
	if err == nil || !ssfilter.AsksMark(s.filter.Where) {
		return nil
	}
	return fmt.Errorf("the kernel does not tell the mark of a socket: %w. What fwmark alone could tell is not selected", err)
}

// bareState finds the name of a state where a filter begins, without the word
// that goes before it.
func bareState(text string) string {
	words := strings.Fields(text)
	for len(words) > 1 && (words[0] == "state" || words[0] == "exclude" || words[0] == "excl") {
		words = words[2:]
	}
	if len(words) == 0 {
		return ""
	}
	if _, err := ssfilter.ParseState(words[0]); err != nil {
		return ""
	}
	return words[0]
}

// lookUp finds the addresses of a host that a filter names.
func lookUp(host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(context.Background(), "ip", host)
}

// query is what to ask the kernel for: where no state is named, every socket but
// listening ones, or what -a and -l say.
func (s *selection) query() sock.Query {
	listening := ssfilter.Of(ssfilter.Listening)
	q := sock.Query{States: s.filter.States, Where: s.filter.Where}
	if q.States == 0 {
		switch {
		case s.all:
			q.States = ssfilter.AllStates
		case s.listening:
			q.States = listening
		default:
			q.States = ssfilter.AllStates &^ listening
		}
	}
	if s.ipv4 != s.ipv6 {
		every := netip.IPv4Unspecified()
		if s.ipv6 {
			every = netip.IPv6Unspecified()
		}
		q.Where = ssfilter.And(ssfilter.Hosts(ssfilter.Src, netip.PrefixFrom(every, 0)), q.Where)
	}
	return q
}
