package replay

import (
	"cmp"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sockettable"
	"github.com/sockdog/sockdog/internal/term"
	"github.com/sockdog/sockdog/rules"
)

// most is how many events are listed for people, of each replay or comparison.
const most = 20

// object is an event in -o json, under the names that the log uses.
type object struct {
	Time   time.Time     `json:"time"`
	After  float64       `json:"after"`          // seconds since the first scan
	Late   float64       `json:"late,omitempty"` // seconds since it fell due, between two scans
	Rule   string        `json:"rule"`
	Action string        `json:"action"`
	Result engine.Result `json:"result"`
	DryRun bool          `json:"dry_run"`
	Reason string        `json:"reason"`
	*sockettable.Object
	Group   map[string]string `json:"group,omitempty"`
	Sockets int               `json:"sockets,omitempty"`
}

func objectOf(e *Event) object {
	o := object{
		Time: e.Wall, After: sockettable.Seconds(e.At), Late: sockettable.Seconds(e.Late), Rule: e.Rule, Action: e.Action.Name,
		Result: e.Result, DryRun: e.DryRun, Reason: e.Reason, Object: e.Socket, Sockets: e.Sockets,
	}
	if e.Socket == nil {
		o.Group = subject.ByName(e.Group)
	}
	return o
}

// PrintJSON prints an object for each event.
func (r *Result) PrintJSON(out io.Writer) error {
	return term.JSON(out, func(yield func(object) bool) {
		for i := range r.Events {
			if !yield(objectOf(&r.Events[i])) {
				return
			}
		}
	})
}

// Print prints what each rule would have done, and the first events but for what was held
// back, in lines of so many cells at most, where that can be; 0 is no bound.
func (r *Result) Print(out io.Writer, cells int) error {
	r.printHead(out)
	if err := r.printRules(out, cells); err != nil {
		return err
	}
	done := 0
	for i := range r.Events {
		if r.Events[i].done() {
			done++
		}
	}
	if err := printEvents(out, cells, "", func(yield func(string, *Event) bool) {
		for i := range r.Events {
			if e := &r.Events[i]; e.done() && !yield("", e) {
				return
			}
		}
	}, done); err != nil {
		return err
	}
	r.printNotes(out, r.Events)
	return nil
}

// printHead prints what was replayed. Whoever made the recording may have written anything
// there.
func (r *Result) printHead(out io.Writer) {
	h := &r.Header
	states, filter := term.Printable(h.States), term.Printable(h.Filter)
	fmt.Fprintf(out, "%s of up to %s in %s, from %s, Linux %s\n", term.Count(r.Scans, "scan"), term.Count(r.Sockets, "socket"),
		term.Short(r.Took), r.Began.Format(time.RFC3339), term.Printable(h.Kernel))
	switch {
	case filter != "" && states != "all":
		fmt.Fprintf(out, "Recorded were only sockets in %s: %s\n", states, filter)
	case filter != "":
		fmt.Fprintf(out, "Recorded were only sockets of: %s\n", filter)
	case states != "all":
		fmt.Fprintf(out, "Recorded were only sockets in %s\n", states)
	}
	if len(h.Masked) > 0 {
		fmt.Fprintf(out, "Masked are %s: what a rule names of them means others here, but for loopback and whole private networks\n", term.Printable(strings.Join(h.Masked, " and ")))
	}
	if r.Failed > 0 {
		fmt.Fprintf(out, "Not recorded were %s that failed\n", term.Count(r.Failed, "scan"))
	}
	fmt.Fprintln(out)
}

// tally is what became of an action of a rule.
type tally struct {
	would, held int
	first, last time.Duration
}

// tallied counts events by rule and action.
func tallied(events []Event) map[[2]string]*tally {
	counts := make(map[[2]string]*tally)
	for i := range events {
		e := &events[i]
		key := [2]string{e.Rule, e.Action.Name}
		c := counts[key]
		if c == nil {
			c = &tally{}
			counts[key] = c
		}
		switch e.Result {
		case engine.Would, firing:
			if c.would == 0 {
				c.first = e.At
			}
			c.would, c.last = c.would+1, e.At
		case engine.Held:
			c.held++
		}
	}
	return counts
}

// printRules prints a line for each action of each rule.
func (r *Result) printRules(out io.Writer, cells int) error {
	table := term.NewTable("RULE", "ACTION", "WOULD", "HELD BACK", "FIRST", "LAST")
	counts := tallied(r.Events)
	for i := range r.set.Rules {
		rule := &r.set.Rules[i]
		for _, kind := range kindsOf(rule) {
			c := cmp.Or(counts[[2]string{rule.Name, kind}], &tally{})
			first, last := "-", "-"
			if c.would > 0 {
				first, last = term.Short(c.first), term.Short(c.last)
			}
			table.Row(rule.Name+mode(rule), kind, strconv.Itoa(c.would), strconv.Itoa(c.held), first, last)
		}
	}
	return table.Print(out, cells)
}

// mode says why a rule would do less than it says.
func mode(r *rules.Rule) string {
	switch {
	case !r.Enabled:
		return " (disabled)"
	case r.DryRun:
		return " (dry run)"
	}
	return ""
}

// kindsOf are the names of the actions of a rule, each once.
func kindsOf(r *rules.Rule) (names []string) {
	seen := make(map[string]bool)
	for _, a := range r.Then {
		if !seen[a.Kind.Name] {
			seen[a.Kind.Name] = true
			names = append(names, a.Kind.Name)
		}
	}
	return names
}

// printEvents lists the first of some events, each with what distinguishes it under a heading,
// if there is one.
func printEvents(out io.Writer, cells int, head string, events func(yield func(string, *Event) bool), all int) error {
	if all == 0 {
		return nil
	}
	pods := false
	events(func(_ string, e *Event) bool { pods = e.pod() != ""; return !pods })
	heads := []string{"AFTER", "RULE", "ACTION", "RESULT", "ON", "HELD BY"}
	if head != "" {
		heads = append([]string{head}, heads...)
	}
	if pods {
		heads = append(heads, "POD")
	}
	table := term.NewTable(append(heads, "BECAUSE")...)
	table.Wraps = true
	rows := 0
	events(func(what string, e *Event) bool {
		if rows == most {
			return false
		}
		rows++
		if head != "" {
			table.Row(what)
		}
		table.Row(term.Short(e.At), e.Rule, e.Action.Name, string(e.Result), e.on(), cmp.Or(e.Holders, "-"))
		if pods {
			table.Row(cmp.Or(e.pod(), "-"))
		}
		table.Row(e.Reason)
		return true
	})
	fmt.Fprintln(out)
	if err := table.Print(out, cells); err != nil {
		return err
	}
	if all > rows {
		fmt.Fprintf(out, "… and %d more: -o json has all\n", all-rows)
	}
	return nil
}

// pod is the one that the socket is held in; empty: none, or that is not known.
func (e *Event) pod() string {
	if e.Socket == nil {
		return ""
	}
	return e.Socket.Pod
}

// on is what an event is about.
func (e *Event) on() string {
	if e.Socket != nil {
		return e.Socket.Src + " → " + e.Socket.Dst
	}
	names := make([]string, len(e.Group))
	for i, l := range e.Group {
		names[i] = l.Name + "=" + l.Value
	}
	return cmp.Or(strings.Join(names, " "), "all sockets")
}

// printNotes says how the events are to be read.
func (r *Result) printNotes(out io.Writer, events []Event) {
	late, longest, killed := 0, time.Duration(0), false
	for i := range events {
		if e := &events[i]; e.Late > 0 {
			late, longest = late+1, max(longest, e.Late)
		}
		killed = killed || events[i].Action.Destructive && events[i].Result == engine.Would && !events[i].DryRun
	}
	if late+len(events) > 0 {
		fmt.Fprintln(out)
	}
	if killed {
		fmt.Fprintln(out, "A socket that would be killed counts once, and is taken for gone from then on, though it lives on in the recording.")
		if !r.Header.Holders {
			fmt.Fprintln(out, "Canaries are left out: the recording does not tell who holds sockets.")
		}
	}
	if late > 0 {
		fmt.Fprintf(out, "%s fell due between two scans, and %s told at the next one, up to %s later.\n", term.Count(late, "action"), are(late), term.Short(longest))
	}
}

func are(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}
