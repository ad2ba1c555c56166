package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sockdog/sockdog/internal/selection"
)

// selectionFlags say which sockets a command is about, said as to ss(8).
type selectionFlags struct {
	selection.Selection
	used *elsewhere // the first flag of ss that is none here
}

// flags adds those of ss that select, and answers the others with what to write
// instead: people paste.
func (s *selectionFlags) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVarP(&s.IPv4, "ipv4", "4", false, "IPv4 only")
	f.BoolVarP(&s.IPv6, "ipv6", "6", false, "IPv6 only; an IPv4-mapped address is IPv4")
	f.BoolVarP(&s.All, "all", "a", false, "listening sockets, too")
	f.BoolVarP(&s.Listening, "listening", "l", false, "listening sockets only")
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
func (s *selectionFlags) elsewhere(cmd *cobra.Command, e elsewhere) {
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
func (s *selectionFlags) parse(args []string) error {
	if e := s.used; e != nil {
		written := "--" + e.name
		if e.letter != "" {
			written = "-" + e.letter + ", " + written
		}
		return usage{fmt.Errorf("%s: %s", written, e.instead)}
	}
	return asUsage(s.Selection.Parse(args))
}
