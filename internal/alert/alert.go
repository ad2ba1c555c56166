// Package alert words alerts: the labels, which identify one, and the annotations, for
// whoever is woken by it. It is pure: it measures nothing and sends nothing.
package alert

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/group"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/rules"
)

// Alert is an alert as receivers are sent it. Its labels identify it.
type Alert struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	StartsAt    time.Time         `json:"startsAt"`
	EndsAt      time.Time         `json:"endsAt"` // zero while it fires
}

// Firing reports whether the alert fires.
func (a *Alert) Firing() bool { return a.EndsAt.IsZero() }

// Facts are what an alert says beside what the engine knows.
type Facts struct {
	Instance string    // this host
	Since    time.Time // the conditions have held since
	Until    time.Time // they held until then: now, or when the alert was over or ended
	Holders  string
	// NetnsName is the name of the network namespace that the group is in; "": it has
	// none, or the group is in several.
	NetnsName string
}

// Labels identify the alert: the same for as long as it goes on, whatever is
// measured.
func Labels(a *engine.Alert, instance string) map[string]string {
	labels := map[string]string{}
	maps.Copy(labels, a.Labels)
	maps.Copy(labels, a.Options.Labels)
	maps.Copy(labels, subject.ByName(a.Group))
	labels["severity"] = a.Options.Severity
	labels["alertname"], labels["instance"] = a.Rule, instance
	return labels
}

// Annotations are the texts and the values. If a template fails, its error is returned
// and the text is sockdog's own.
func Annotations(a *engine.Alert, f Facts) (map[string]string, error) {
	e := event(a, f)
	said := map[string]string{
		"count": strconv.Itoa(a.Count),
		"peak":  strconv.Itoa(e.Peak),
		"since": f.Since.UTC().Format(time.RFC3339),
		"done":  e.Done,
		"when":  e.When,
		"peers": e.Peers,

		"netns_name": f.NetnsName,
	}
	maps.DeleteFunc(said, func(_, text string) bool { return text == "" })
	said["holders"] = e.Holders
	if rules.Whole(a.When) {
		for _, name := range []string{"count", "peak", "holders", "done"} {
			delete(said, name)
		}
	}
	if a.Oldest > 0 {
		said["oldest"] = whole(a.Oldest)
	}
	for _, c := range a.When {
		if c.Metric != rules.Count {
			said[string(c.Metric)] = a.Text(c.Metric)
		}
	}
	if a.Overflow > 0 {
		said["groups"] = strconv.Itoa(a.Overflow)
	}
	var err error
	render := func(name string, t *rules.Template, own string) {
		said[name] = own
		if t == nil {
			return
		}
		text, failed := t.Render(&e)
		if failed != nil {
			err = cmp.Or(err, fmt.Errorf("the %s of rule %s: %w", name, a.Rule, failed))
			return
		}
		said[name] = text
	}
	render("summary", a.Options.Summary, summary(a, f))
	render("description", a.Options.Description, description(a, f, &e))
	return said, err
}

func event(a *engine.Alert, f Facts) rules.Event {
	e := rules.Event{
		Status: "firing", Rule: a.Rule, About: a.About, Instance: f.Instance, Group: subject.ByName(a.Group),
		Count: a.Count, Growth: a.Growth, PortUsage: a.PortUsage, BacklogUsage: a.BacklogUsage,
		FDUsage: a.FDUsage, ListenDrops: a.ListenDrops, Orphans: a.Orphans, TCPMemory: a.TCPMemory,
		Since: f.Since.UTC().Truncate(time.Second), Lasted: f.Until.Sub(f.Since).Round(time.Second), Oldest: a.Oldest.Truncate(time.Second),
		Holders: f.Holders, Done: done(a), Peak: max(a.Peak, a.Count), Peers: peers(a.Examples),
	}
	if a.Ended != 0 {
		e.Status = "resolved"
	}
	when := make([]string, len(a.When))
	for i, c := range a.When {
		when[i] = c.String()
	}
	e.When = strings.Join(when, " and ")
	return e
}

// summary is one line: which rule, how many sockets, to which peer, and where.
func summary(a *engine.Alert, f Facts) string {
	var b strings.Builder
	b.WriteString(a.Rule + ": ")
	if a.Ended != 0 {
		b.WriteString("resolved: ")
	}
	if rules.Whole(a.When) {
		return b.String() + values(a) + whom(a) + " on " + f.Instance
	}
	b.WriteString(howMany(a) + whom(a) + " on " + f.Instance)
	for _, c := range a.When {
		if c.Metric != rules.Count {
			fmt.Fprintf(&b, ", %s %s", c.Metric, a.Text(c.Metric))
		}
	}
	return b.String()
}

// description is what one wants to know before logging in.
func description(a *engine.Alert, f Facts, e *rules.Event) string {
	var b strings.Builder
	if a.About != "" {
		b.WriteString(a.About + "\n")
	}
	why := "any due socket"
	if e.When != "" {
		why = e.When
	}
	what := howMany(a)
	if rules.Whole(a.When) {
		what = values(a)
	}
	fmt.Fprintf(&b, "Rule %s (%s): %s%s.\n", a.Rule, why, what, whom(a))
	since := f.Since.UTC().Format(time.RFC3339)
	until := f.Until.UTC().Format(time.RFC3339)
	switch {
	case a.Ended != 0:
		fmt.Fprintf(&b, "Resolved: it lasted from %s to %s.", since, until)
	case a.Over != 0:
		fmt.Fprintf(&b, "It lasted from %s to %s; keep_firing_for keeps the alert up for a while, so that it does not flap.", since, until)
	default:
		fmt.Fprintf(&b, "Firing since %s, for %s.", since, whole(f.Until.Sub(f.Since)))
	}
	if a.Oldest > 0 {
		fmt.Fprintf(&b, " The oldest has been in its state for %s.", whole(a.Oldest))
	}
	if !rules.Whole(a.When) {
		fmt.Fprintf(&b, "\nHeld by: %s.\nDone so far: %s.", f.Holders, e.Done)
	}
	return b.String()
}

// values are what is measured of the group.
func values(a *engine.Alert) string {
	var words []string
	for _, c := range a.When {
		if word := string(c.Metric) + " " + a.Text(c.Metric); !slices.Contains(words, word) {
			words = append(words, word)
		}
	}
	return strings.Join(words, ", ")
}

// howMany says how many sockets there are, or how many there were at most: an alert
// may outlast its last socket, so that it does not flap.
func howMany(a *engine.Alert) string {
	if a.Count == 0 && a.Peak > 0 {
		return "none left of " + sockets(a.Peak)
	}
	return sockets(a.Count)
}

// mostRules is how many other rules an alert names.
const mostRules = 3

// done says what was done about the sockets, by the rule itself and by others.
func done(a *engine.Alert) string {
	var by []string
	if a.Takes {
		by = results(a.Done, "")
	}
	names := slices.Sorted(maps.Keys(a.ByOthers))
	for _, name := range names[:min(len(names), mostRules)] {
		by = append(by, results(a.ByOthers[name], " by rule "+name)...)
	}
	switch rest := len(names) - mostRules; {
	case rest == 1:
		by = append(by, "and by 1 more rule")
	case rest > 1:
		by = append(by, fmt.Sprintf("and by %d more rules", rest))
	}
	if len(by) == 0 && !a.Takes {
		return "nothing: the rule only alerts"
	}
	since := " since the rule began to fire"
	if a.DoneFrom == 0 {
		since = " since sockdog started"
	}
	if len(by) == 0 {
		return "nothing" + since
	}
	return strings.Join(by, "; ") + "," + since
}

// results counts outcomes in words, by kind: "kill by rule x: 12 done, 3 gone".
func results(of engine.Results, by string) (kinds []string) {
	order := func(a, b engine.KindResult) int {
		return cmp.Or(cmp.Compare(a.Kind.Name, b.Kind.Name), cmp.Compare(a.Result, b.Result))
	}
	some := make(map[string][]string)
	for _, k := range slices.SortedFunc(maps.Keys(of), order) {
		word := string(k.Result)
		if k.Result == engine.Would {
			word = "would be done"
		}
		if n := of[k]; n > 0 {
			some[k.Kind.Name] = append(some[k.Kind.Name], fmt.Sprintf("%d %s", n, word))
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(some)) {
		kinds = append(kinds, kind+by+": "+strings.Join(some[kind], ", "))
	}
	return kinds
}

// mostPeers is how many an alert names.
const mostPeers = 3

// peers are those that most of the examples go to: as address and port, or as
// addresses alone where those are too many, or the ports mere numbers of clients.
func peers(examples []group.Example) string {
	whole, hosts := make(map[string]int), make(map[string]int)
	for i := range examples {
		if p := examples[i].Peer; p.Port() != 0 { // a listener has none
			whole[p.String()]++
			hosts[p.Addr().String()]++
		}
	}
	all := whole
	if len(whole) > mostPeers || len(whole) > len(hosts) && slices.Max(slices.Collect(maps.Values(whole))) == 1 {
		all = hosts
	}
	most := slices.SortedFunc(maps.Keys(all), func(a, b string) int { return cmp.Or(all[b]-all[a], cmp.Compare(a, b)) })
	if len(most) == 1 {
		return most[0]
	}
	var words []string
	for _, p := range most[:min(len(most), mostPeers)] {
		words = append(words, fmt.Sprintf("%s (%d)", p, all[p]))
	}
	text := strings.Join(words, ", ")
	if rest := len(most) - mostPeers; rest > 0 {
		text += fmt.Sprintf(" and %d more", rest)
	}
	return text
}

// whom says what the sockets have in common: " to 10.0.0.7:5432".
func whom(a *engine.Alert) string {
	if a.Overflow > 0 {
		return fmt.Sprintf(" in %d groups without an alert of their own", a.Overflow)
	}
	of := subject.ByName(a.Group)
	text := ""
	if state, ok := of["state"]; ok {
		text += " in " + state
	}
	text += end(" from ", of, "src", "sport")
	if to := end(" to ", of, "dst", "dport"); to != "" {
		text += to
	} else if p := peers(a.Examples); p != "" {
		text += " to " + p
	}
	if netns, ok := of["netns"]; ok && rules.Whole(a.When) {
		text += " in network namespace " + netns
	}
	if user, ok := of["user"]; ok {
		text += " of user " + user
	}
	return text
}

// end is one end of connections: an address, a port, both, or nothing.
func end(word string, of map[string]string, address, port string) string {
	a, hasAddress := of[address]
	p, hasPort := of[port]
	switch {
	case hasAddress && hasPort && strings.Contains(a, ":"):
		return word + "[" + a + "]:" + p
	case hasAddress && hasPort:
		return word + a + ":" + p
	case hasAddress:
		return word + a
	case hasPort:
		return word + "port " + p
	default:
		return ""
	}
}

func sockets(n int) string {
	switch n {
	case 0:
		return "no socket"
	case 1:
		return "1 socket"
	}
	return strconv.Itoa(n) + " sockets"
}

func whole(d time.Duration) string { return d.Truncate(time.Second).String() }
