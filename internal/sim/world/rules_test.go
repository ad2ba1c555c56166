package world_test

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// rules makes a random set. Rules that keep their names may get other limits.
func (w *judge) rules() *rules.Set {
	set := &rules.Set{Settings: rules.Settings{
		CPUBudget: []float64{0.005, 0.01, 0.1, 1}[w.Rand.IntN(4)],
		Limit:     rules.Limit{N: 5 + w.Rand.IntN(30), Per: time.Duration(10+10*w.Rand.IntN(3)) * time.Second},
	}}
	if w.Rand.IntN(3) == 0 {
		set.Settings.Interval = time.Second + w.UpTo(9*time.Second)
	}
	set.Protect = []rules.Match{{States: ssfilter.AllStates, Where: port(22)}}
	if w.Passes && w.Rand.IntN(4) == 0 {
		set.Protect = append(set.Protect, rules.Match{States: ssfilter.AllStates, Processes: []string{"worker"}})
	}
	named, total := 1+w.Rand.IntN(3), 0
	if w.large {
		named += w.Rand.IntN(2)
	}
	if w.large && w.Rand.IntN(8) == 0 {
		total = w.Rand.IntN(400) // of rules that name a port, most of them none that is in use
	}
	for i := range named + total {
		set.Rules = append(set.Rules, w.randomRule(i, i >= named))
	}
	w.Rand.Shuffle(len(set.Rules), func(i, j int) { set.Rules[i], set.Rules[j] = set.Rules[j], set.Rules[i] })
	if w.Rules != nil && w.Rand.IntN(2) == 0 { // some rules stay as they were, at another place
		set.Settings.Limit = w.Rules.Settings.Limit
		kept := w.Rules.Rules[w.Rand.IntN(len(w.Rules.Rules)):]
		names := make(map[string]bool)
		for _, r := range kept {
			names[r.Name] = true
		}
		set.Rules = slices.DeleteFunc(set.Rules, func(r rules.Rule) bool { return names[r.Name] })
		set.Rules = append(set.Rules, kept...)
	}
	return set
}

// randomRule makes the rule at a place in the file; ofPorts: it names some.
func (w *judge) randomRule(i int, ofPorts bool) rules.Rule {
	r := rules.Rule{
		Name:    fmt.Sprintf("rule-%d", w.Rand.IntN(3)*1000+i),
		Enabled: w.Rand.IntN(10) > 0, DryRun: w.Rand.IntN(4) == 0,
		Then: []rules.Action{{Kind: rules.Kill, Limit: rules.Limit{N: 1 + w.Rand.IntN(12), Per: time.Duration(5+10*w.Rand.IntN(4)) * time.Second}}},
	}
	if w.Rand.IntN(2) == 0 {
		r.Then[0].Order = rules.Newest
	}
	if w.Rand.IntN(5) == 0 {
		r.Then[0].Options = map[string]any{"via": rules.ViaHolder}
	}
	if w.Rand.IntN(5) == 0 {
		r.Then = append([]rules.Action{{Kind: rules.Keepalive}}, r.Then...)
	}
	if w.Rand.IntN(3) == 0 {
		r.Then = append([]rules.Action{{Kind: rules.Log}}, r.Then...)
	}
	if w.Rand.IntN(4) == 0 {
		r.Then[len(r.Then)-1].After = w.UpTo(10 * time.Second)
	}
	for range 1 + w.Rand.IntN(2) {
		m := w.matching()
		if ofPorts {
			m.Where = ssfilter.And(m.Where, w.somePorts())
		}
		r.Match = append(r.Match, m)
	}
	if w.Rand.IntN(4) == 0 {
		r.Exclude = []rules.Match{{States: ssfilter.AllStates, Where: port(ports[w.Rand.IntN(4)])}}
	}
	if w.Rand.IntN(8) == 0 {
		r.Exclude = append(r.Exclude, rules.Match{States: ssfilter.AllStates, Where: where([]string{"autobound", "not autobound", "fwmark = 2"}[w.Rand.IntN(3)])})
	}
	if w.Rand.IntN(8) == 0 {
		r.Exclude = append(r.Exclude, rules.Match{States: ssfilter.AllStates, Unread: &rules.Threshold{Op: rules.Greater, Number: 1}})
	}
	if w.Rand.IntN(4) == 0 {
		r.Then = append([]rules.Action{{Kind: rules.Alert, Alert: &rules.AlertOptions{KeepFiringFor: w.UpTo(20 * time.Second)}}}, r.Then...)
	}
	if w.Rand.IntN(4) == 0 {
		w.group(&r)
	}
	if w.Passes {
		w.byProcess(&r)
	}
	w.groups.actions(&r)
	if w.Rand.IntN(3) == 0 {
		w.canary(&r)
	}
	if w.Rand.IntN(3) == 0 {
		w.share(&r)
	}
	if w.Rand.IntN(8) == 0 {
		r.Then[len(r.Then)-1].MaxMatches = 1 + w.Rand.IntN(20)
	}
	w.shuts.shutdown(&r)
	w.made++
	r.Sum = fmt.Sprintf("rule %d of this world", w.made)
	return r
}

// port is that of a peer.
func port(p int) ssfilter.Expr {
	return ssfilter.Ports(ssfilter.Dst, ssfilter.PortRange{First: uint16(p), Last: uint16(p)})
}

// byProcess has a rule ask who holds sockets.
func (w *judge) byProcess(r *rules.Rule) {
	names := [][]string{{"leaky"}, {"server"}, {"leaky", "worker"}, {"ser*"}}
	for i := range r.Match {
		if w.Rand.IntN(2) == 0 {
			r.Match[i].Processes = names[w.Rand.IntN(len(names))]
		}
	}
	if w.Rand.IntN(4) == 0 {
		r.Exclude = append(r.Exclude, rules.Match{States: ssfilter.AllStates, Processes: names[w.Rand.IntN(len(names))]})
	}
	if len(r.When) > 0 && w.Rand.IntN(2) == 0 {
		r.GroupBy = append(r.GroupBy, []rules.GroupKey{rules.ByProcess, rules.ByPID}[w.Rand.IntN(2)])
	}
}

// asksHolders reports whether a rule asks who holds sockets.
func asksHolders(r *rules.Rule) bool {
	asks := func(m rules.Match) bool { return len(m.Processes) > 0 }
	return slices.ContainsFunc(r.Match, asks) || slices.ContainsFunc(r.Exclude, asks) || slices.Contains(r.GroupBy, rules.ByProcess) || slices.Contains(r.GroupBy, rules.ByPID)
}

// group makes a rule one about groups.
func (w *judge) group(r *rules.Rule) {
	n := w.Rand.IntN(4)
	r.When = []rules.Condition{{Metric: rules.Count, Op: rules.Greater, Number: float64(n)}}
	if w.Rand.IntN(4) == 0 {
		r.When = append(r.When, rules.Condition{Metric: rules.Growth, Op: rules.Greater, Number: 0.2})
	}
	if w.Rand.IntN(2) == 0 {
		r.Until = []rules.Condition{{Metric: rules.Count, Op: rules.Less, Number: float64(1 + w.Rand.IntN(n+1))}}
	}
	if w.Rand.IntN(2) == 0 {
		r.For = w.UpTo(15 * time.Second)
	}
	for _, key := range []rules.GroupKey{rules.ByDport, rules.ByState, rules.ByUser} {
		if w.Rand.IntN(3) == 0 {
			r.GroupBy = append(r.GroupBy, key)
		}
	}
	if w.Rand.IntN(3) == 0 {
		for i := range r.Match { // count all, whatever their age, and kill none
			r.Match[i].InStateFor, r.Match[i].IdleFor, r.Match[i].StalledFor, r.Match[i].SilentFor = 0, 0, 0, 0
		}
		r.DryRun = true
	}
}

// somePorts names ports of either side, among which some are in use.
func (w *judge) somePorts() ssfilter.Expr {
	if w.Rand.IntN(2) == 0 {
		local := uint16(10000 + w.Rand.IntN(60))
		return ssfilter.Ports(ssfilter.Src, ssfilter.PortRange{First: local, Last: local + uint16(w.Rand.IntN(5))})
	}
	first := uint16(1 + w.Rand.IntN(6000))
	return ssfilter.Ports(ssfilter.Dst, ssfilter.PortRange{First: first, Last: first + uint16(w.Rand.IntN(300))})
}

func (w *judge) matching() rules.Match {
	m := rules.Match{States: []ssfilter.StateSet{
		ssfilter.Of(ssfilter.CloseWait), ssfilter.Of(ssfilter.CloseWait), ssfilter.Of(ssfilter.CloseWait),
		ssfilter.Of(ssfilter.Established), ssfilter.Of(ssfilter.Established, ssfilter.CloseWait),
		ssfilter.Of(ssfilter.TimeWait), ssfilter.Of(ssfilter.FinWait2), ssfilter.Connected,
		ssfilter.Of(ssfilter.LastAck, ssfilter.FinWait1, ssfilter.Closing, ssfilter.SynSent),
	}[w.Rand.IntN(9)]}
	bound := time.Second + w.UpTo(50*time.Second)
	switch w.Rand.IntN(6) {
	case 0, 1:
		m.InStateFor = bound
	case 2:
		m.IdleFor = bound
	case 3:
		m.StalledFor = bound
	case 4:
		m.SilentFor = bound
	case 5:
		m.SilentFor, m.InStateFor, m.StalledFor = bound, bound*time.Duration(w.Rand.IntN(2))/2, bound*time.Duration(w.Rand.IntN(3))/3
	}
	switch w.Rand.IntN(12) {
	case 0:
		m.Where = port(ports[w.Rand.IntN(4)])
	case 1:
		m.Where = ssfilter.Not(port(ports[w.Rand.IntN(4)]))
	case 2:
		m.Users = []uint32{1000}
	case 3:
		m.Unread = &rules.Threshold{Op: rules.LessEqual, Number: 1}
	case 4:
		m.Verdicts = []rules.Verdict{rules.EOFReadNotClosed}
	case 5:
		m.Where = where("autobound")
	case 6:
		m.Where = where("not autobound")
	case 7:
		m.Where = where("fwmark = 1")
	case 8:
		m.Where = where("fwmark != 0 and not autobound")
	case 9:
		kept := w.Rand.IntN(2) == 0
		m.Keepalive = &kept
	}
	return m
}

// where is a filter as ss has it.
func where(filter string) ssfilter.Expr {
	x, err := ssfilter.ParseExpr(filter)
	if err != nil {
		panic(err)
	}
	return x
}

// describe writes the rules in force to the trace.
func (w *judge) describe() {
	if w.Trace == nil {
		return
	}
	var b strings.Builder
	set := w.Rules
	fmt.Fprintf(&b, "limit %v interval %v cpu %v", set.Settings.Limit, set.Settings.Interval, set.Settings.CPUBudget)
	for _, r := range set.Rules {
		fmt.Fprintf(&b, "\n\t%s enabled=%v dry=%v by %v when %v until %v for %v", r.Name, r.Enabled, r.DryRun, r.GroupBy, r.When, r.Until, r.For)
		for _, a := range r.Then {
			fmt.Fprintf(&b, "\n\t\tthen %s after %v limit %v via %s most %v max_matches %v canary %t", a.Kind, a.After, a.Limit, a.Via(), a.Most, a.MaxMatches, a.Canary != nil)
		}
		for _, m := range r.Match {
			fmt.Fprintf(&b, "\n\t\tmatch %s where %v in_state %v idle %v stalled %v silent %v users %v unread %v keepalive %v verdicts %v processes %v", m.States, m.Where, m.InStateFor, m.IdleFor, m.StalledFor, m.SilentFor, m.Users, m.Unread, m.Keepalive != nil, m.Verdicts, m.Processes)
		}
		for _, m := range r.Exclude {
			fmt.Fprintf(&b, "\n\t\texclude %s where %v unread %v processes %v", m.States, m.Where, m.Unread, m.Processes)
		}
	}
	w.Logf("rules %s", &b)
}
