package sockettable

import (
	"io"
	"maps"
	"slices"
	"strconv"

	"github.com/sockdog/sockdog/internal/term"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// count is a number of sockets, by the family of their addresses.
type count struct {
	Total int `json:"count"`
	IPv4  int `json:"ipv4"`
	IPv6  int `json:"ipv6"`
}

func (c count) and(r *row) count {
	c.Total++
	if r.Src.Addr().Is4() {
		c.IPv4++
	} else {
		c.IPv6++
	}
	return c
}

// stateCount is a state in -o json.
type stateCount struct {
	State string `json:"state"`
	MPTCP bool   `json:"mptcp,omitempty"` // of the connections of Multipath TCP; else of TCP, and their subflows
	count
	Verdicts map[rules.Verdict]int `json:"verdicts,omitempty"`
}

// verdicts are those there are, in the order in which they are shown.
var verdicts = []rules.Verdict{rules.EOFUnread, rules.EOFReadNotClosed, rules.UnreadData, rules.StillSending, rules.InBacklog}

// printSummary prints how many sockets there are in each state, and why they are
// stuck in CLOSE_WAIT.
func (t *Table) printSummary(out io.Writer, v *View) error {
	states, mptcp, stuck := make(map[ssfilter.State]count), make(map[ssfilter.State]count), make(map[rules.Verdict]count)
	var all count
	for _, r := range t.rows {
		all = all.and(r)
		if r.connection {
			mptcp[r.State] = mptcp[r.State].and(r)
			continue
		}
		verdict := r.verdict()
		states[r.State] = states[r.State].and(r)
		stuck[verdict] = stuck[verdict].and(r)
	}
	var objects []stateCount
	rows := term.NewTable("STATE", "COUNT", "IPV4", "IPV6")
	line := func(name string, c count) {
		rows.Row(name, strconv.Itoa(c.Total), strconv.Itoa(c.IPv4), strconv.Itoa(c.IPv6))
	}
	for _, state := range slices.Sorted(maps.Keys(states)) {
		o := stateCount{State: state.String(), count: states[state], Verdicts: make(map[rules.Verdict]int)}
		line(StateHead(state), o.count)
		for _, verdict := range verdicts {
			if c, ok := stuck[verdict]; ok && state == ssfilter.CloseWait {
				o.Verdicts[verdict] = c.Total
				line("  "+string(verdict), c)
			}
		}
		objects = append(objects, o)
	}
	for _, state := range slices.Sorted(maps.Keys(mptcp)) {
		o := stateCount{State: state.String(), MPTCP: true, count: mptcp[state]}
		line("MPTCP "+StateHead(state), o.count)
		objects = append(objects, o)
	}
	if v.JSON {
		return term.JSONOf(out, objects)
	}
	line("TOTAL", all)
	return v.print(out, rows, 0)
}
