package selection

import (
	"net"
	"slices"
	"strings"

	"github.com/sockdog/sockdog/rules/ssfilter"
)

// The words of a filter.
var (
	stateGroups = []string{
		"all", "connected\tall but closed and listening", "synchronized\tconnected, but not syn-sent",
		"bucket\tsyn-recv and time-wait", "big\tall but syn-recv and time-wait",
	}
	conditions = []string{
		"src\tlocal address", "dst\taddress of the peer", "sport\tlocal port", "dport\tport of the peer", "dev\tdevice", "fwmark", "cgroup",
		"autobound\tthe kernel chose the local port", "not", "(",
	}
	comparisons = []string{"=", "!=", "<", "<=", ">", ">="}
	equality    = []string{"=", "!="}
)

// NextWords are those that a filter which begins so may go on with, as far as they
// can be known.
func NextWords(before []string) []string {
	word := func(back int) string { // from the end
		if back > len(before) {
			return ""
		}
		return strings.ToLower(before[len(before)-back])
	}
	isState := func(w string) bool { return w == "state" || w == "exclude" || w == "excl" }
	isOperator := func(w string) bool { return slices.Contains(comparisons, w) || w == "==" }
	switch last := word(1); {
	case isState(last):
		names := slices.Clone(stateGroups)
		for _, s := range append(ssfilter.AllStates.States(), ssfilter.BoundInactive) {
			names = append(names, s.String())
		}
		return names
	case last == "", isState(word(2)):
		return append([]string{"state\tonly these", "exclude\tall but these"}, conditions...)
	case slices.Contains([]string{"and", "or", "not", "&&", "&", "||", "|", "!", "("}, last):
		return conditions
	case last == "sport", last == "dport":
		return comparisons
	case last == "dev", isOperator(last) && word(2) == "dev":
		names := deviceNames()
		if last == "dev" {
			names = append(slices.Clone(equality), names...)
		}
		return names
	case last == "fwmark", last == "cgroup":
		return equality
	case last == "src", last == "dst", isOperator(last):
		return nil // an address, a port, a mark or a path
	default:
		return []string{"and", "or", ")"}
	}
}

func deviceNames() []string {
	devices, err := net.Interfaces()
	if err != nil {
		return nil
	}
	names := make([]string, len(devices))
	for i := range devices {
		names[i] = devices[i].Name
	}
	return names
}
