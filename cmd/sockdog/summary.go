package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"

	"github.com/sockdog/sockdog/internal/counters"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// tally counts sockets, by the family of their addresses.
type tally struct {
	Total int `json:"count"`
	IPv4  int `json:"ipv4"`
	IPv6  int `json:"ipv6"`
}

func (t *tally) add(r *row) {
	t.Total++
	if r.src.ipv4 {
		t.IPv4++
	} else {
		t.IPv6++
	}
}

// summarized is a state in -o json.
type summarized struct {
	State string `json:"state"`
	tally
	Verdicts map[rules.Verdict]int `json:"verdicts,omitempty"`
}

// printSummary prints how many sockets there are in each state, and why they are
// stuck in CLOSE_WAIT.
func (l *listing) printSummary(out io.Writer, screen screen) error {
	states := make(map[ssfilter.State]*tally)
	var stuck [len(verdicts)]tally
	var all tally
	for _, r := range l.crowd.rows {
		if states[r.state] == nil {
			states[r.state] = new(tally)
		}
		states[r.state].add(r)
		stuck[r.verdict].add(r)
		all.add(r)
	}
	var objects []summarized
	var rows [][]string
	line := func(name string, t *tally) {
		rows = append(rows, []string{name, strconv.Itoa(t.Total), strconv.Itoa(t.IPv4), strconv.Itoa(t.IPv6)})
	}
	for _, state := range slices.Sorted(maps.Keys(states)) {
		t := states[state]
		o := summarized{State: state.String(), tally: *t}
		line(stateHead(state), t)
		if state == ssfilter.CloseWait {
			o.Verdicts = make(map[rules.Verdict]int)
			for v, t := range stuck {
				if v != 0 && t.Total > 0 {
					o.Verdicts[verdicts[v]] = t.Total
					line("  "+string(verdicts[v]), &t)
				}
			}
		}
		objects = append(objects, o)
	}
	if l.output == "json" {
		return printJSON(out, objects)
	}
	line("TOTAL", &all)
	header := []string{"STATE", "COUNT", "IPV4", "IPV6"}
	if l.bare {
		header = nil
	}
	if err := printTable(out, header, rows, screen.width); err != nil || l.bare {
		return err
	}
	return printHost(out)
}

// printHost prints what the kernel counts for the whole host, without a scan.
func printHost(out io.Writer) error {
	reader, err := counters.Open()
	if err != nil {
		return err
	}
	defer reader.Close()
	h, ok, err := reader.ReadHost()
	if err != nil || !ok {
		return err
	}
	_, err = fmt.Fprintf(out, "\nThe whole host: %s, %d KiB of memory in TCP buffers\n",
		count(int(h.Orphans), "orphan"), h.BufferPages*uint64(os.Getpagesize()/1024))
	return err
}
