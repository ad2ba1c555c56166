// Package selection is which sockets a person means, written as for ss(8): the filter and
// the flags of it, what they ask the kernel for, and the words that may come next.
package selection

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"unicode/utf8"

	"github.com/sockdog/sockdog/internal/cgroup"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/source/sockdiag"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Selection is which sockets a command is about.
type Selection struct {
	IPv4, IPv6, All, Listening bool

	Filter ssfilter.Filter
}

// Parse reads the filter, which may stand in one argument or in many.
func (s *Selection) Parse(args []string) error {
	text := strings.NewReplacer("\n", " ", "\t", " ").Replace(strings.Join(args, " "))
	if word := bareState(text); word != "" {
		return fmt.Errorf("%q is a state: write state %s", word, word)
	}
	var err error
	s.Filter, err = ssfilter.ParseFilter(text, lookUp)
	var syntax *ssfilter.SyntaxError
	if errors.As(err, &syntax) {
		column := utf8.RuneCountInString(text[:syntax.Offset]) + 1
		report := rules.Problems{{Line: 1, Column: column, Msg: syntax.Msg, Text: text}}.Report("filter")
		return errors.New(strings.TrimSuffix(report, "\n"))
	}
	if err == nil {
		err = known(s.Filter.Where)
	}
	return err
}

// known complains of a device or a cgroup that is not there, as ss does: with a
// mistake in its name, "not dev = eht0" would mean every socket.
func known(where ssfilter.Expr) error {
	asked := ssfilter.Asks(where)
	for _, name := range asked.Devices {
		if !sockdiag.HasDevice(name) {
			return fmt.Errorf("there is no device %q here: ip link shows which there are", name)
		}
	}
	if len(asked.Cgroups) == 0 {
		return nil
	}
	tree := cgroup.New()
	for _, name := range asked.Cgroups {
		if _, ok := tree.ID(name); !ok {
			return fmt.Errorf("there is no cgroup %q here: write its path as it follows the 0:: in /proc/PID/cgroup", name)
		}
	}
	return nil
}

// Markless says what follows where the filter asks for marks and err is why the
// kernel does not tell them.
func (s *Selection) Markless(err error) error {
	if err == nil || !ssfilter.Asks(s.Filter.Where).Mark {
		return nil
	}
	return fmt.Errorf("the kernel does not tell the mark of a socket: %w. Sockets that only fwmark could select are left out", err)
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

// Query is what to ask the kernel for: where no state is named, every socket but
// listening ones, or what -a and -l say.
func (s *Selection) Query() sock.Query {
	listening := ssfilter.Of(ssfilter.Listening)
	q := sock.Query{States: s.Filter.States, Where: s.Filter.Where}
	if q.States == 0 {
		switch {
		case s.All:
			q.States = ssfilter.AllStates
		case s.Listening:
			q.States = listening
		default:
			q.States = ssfilter.AllStates &^ listening
		}
	}
	if s.IPv4 != s.IPv6 {
		every := netip.IPv4Unspecified()
		if s.IPv6 {
			every = netip.IPv6Unspecified()
		}
		q.Where = ssfilter.And(ssfilter.Hosts(ssfilter.Src, netip.PrefixFrom(every, 0)), q.Where)
	}
	return q
}
