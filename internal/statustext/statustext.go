// Package statustext prints the status of a daemon for people: what it lacks, what each
// rule holds and has done, the sockets by state and the last actions.
package statustext

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sockdog/sockdog/internal/journal"
	"github.com/sockdog/sockdog/internal/status"
	"github.com/sockdog/sockdog/internal/term"
)

// Print prints a status in lines of so many cells at most, where that can be;
// 0 is no bound.
func Print(out io.Writer, s *status.Status, cells int) error {
	w := report{cells: cells, since: func(t time.Time) string { return term.Short(s.Time.Sub(t)) }}
	w.summary(s)
	w.rules(s)
	w.groups(s.Rules)
	w.sockets(s)
	w.actions(s)
	_, err := w.WriteTo(out)
	return err
}

// report is a status on its way to a terminal.
type report struct {
	bytes.Buffer
	cells int                    // in a line
	since func(time.Time) string // how long ago, for the daemon
}

// line prints a text after an indent, and what does not fit on lines that are
// indented further.
func (w *report) line(indent, text string) {
	for i, part := range term.Wrap(term.Printable(text), max(0, w.cells-len(indent)-2)) {
		if i > 0 {
			w.WriteString("  ")
		}
		fmt.Fprintf(w, "%s%s\n", indent, part)
	}
}

func (w *report) summary(s *status.Status) {
	w.line("", fmt.Sprintf("sockdog %s on %s, up %s: %s", s.Version, s.Host, w.since(s.Started), s.Verdict()))
	file := s.File.Path
	if s.File.BuiltIn {
		file = "built in"
	}
	scans := "none are wanted"
	if s.Scans.IntervalSeconds > 0 {
		scans = "every " + term.Short(ofSeconds(s.Scans.IntervalSeconds))
	}
	w.line("  ", fmt.Sprintf("rules   %s, in force for %s", file, w.since(s.File.Loaded)))
	w.line("  ", fmt.Sprintf("scans   %s, %d done, %d failed", scans, s.Scans.OK, s.Scans.Failed))
	if source := s.Source.String(); source != "" {
		w.line("  ", "source  "+source)
	}
	w.notes("PROBLEM", s.Problems)
	w.notes("NOTE", s.Notes)
}

func (w *report) notes(title string, all status.Problems) {
	for _, p := range all {
		w.WriteByte('\n')
		w.line("", title+" "+p.Kind+"  for "+w.since(p.Since))
		for line := range strings.SplitSeq(p.Text, "\n") {
			w.line("  ", line)
		}
		if p.Cure != "" {
			w.line("  ", "Cure: "+p.Cure)
		}
	}
}

// rules prints what each rule says, holds and has done.
func (w *report) rules(s *status.Status) {
	for i := range s.Rules {
		r := &s.Rules[i]
		mode := strings.ReplaceAll(string(r.Mode), "_", " ")
		if action := s.Cannot(r); action != "" {
			mode = "cannot " + action
		}
		w.WriteByte('\n')
		w.line("", "RULE "+r.Name+"  "+mode)
		for _, text := range []string{r.Text, holds(r), heldBy(r), outcomes(r)} {
			if text != "" {
				w.line("  ", text)
			}
		}
	}
}

// holds is what a rule holds now: "3 match, 70 waiting, first due in 34s, oldest 5m11s".
func holds(r *status.Rule) string {
	var words []string
	if !r.Whole {
		words = append(words, fmt.Sprint(r.Sockets, " match"))
	}
	add := func(n int, what string) {
		if n > 0 {
			words = append(words, fmt.Sprint(n, what))
		}
	}
	add(r.Candidates-r.Sockets, " waiting")
	if due := r.FirstDueSeconds; due != nil && r.Candidates > r.Sockets {
		switch {
		case *due <= 0: // how many is not known before the next
			words = append(words, "some due since the last scan")
		case *due < 1:
			words = append(words, "first due now")
		default:
			words = append(words, "first due in "+term.Short(ofSeconds(*due).Truncate(time.Second)))
		}
	}
	if r.OldestSeconds > 0 {
		words = append(words, "oldest "+term.Short(ofSeconds(r.OldestSeconds)))
	}
	add(r.Held, " held back")
	add(r.Firing, " firing")
	add(r.Pending, " pending")
	return strings.Join(words, ", ")
}

// heldBy is who holds those that match: "held by java (40), nginx (3), unknown (2)"; empty where
// that is known of none.
func heldBy(r *status.Rule) string {
	words := make([]string, len(r.HeldBy))
	for i, p := range r.HeldBy {
		words[i] = fmt.Sprintf("%s (%d)", p.Process, p.Sockets)
	}
	if len(words) == 1 && r.HeldBy[0].Process == status.UnknownProcess || len(words) == 0 {
		return ""
	}
	return "held by " + strings.Join(words, ", ")
}

// outcomes is what a rule has done, and what it has skipped: "kill: 12 done, 1 gone;
// as a dry run: would kill 3; skipped: 30 protected". What is held back is told as of now.
func outcomes(r *status.Rule) string {
	var lines []string
	for _, action := range slices.Sorted(maps.Keys(r.Actions)) {
		var some []string
		for _, result := range status.Results {
			n := r.Actions[action][result]
			if n == 0 || result == journal.Held || result == journal.Would {
				continue
			}
			word := string(result)
			if action == "alert" && result == journal.Done {
				word = "raised" // whether a receiver took it is told apart
			}
			some = append(some, fmt.Sprintf("%d %s", n, word))
		}
		if len(some) > 0 {
			lines = append(lines, action+": "+strings.Join(some, ", "))
		}
		if n := r.Actions[action][journal.Would]; n > 0 {
			how := ""
			if r.Mode != status.DryRun { // it was one earlier, or cannot do it to some
				how = "as a dry run: "
			}
			lines = append(lines, fmt.Sprintf("%swould %s %d", how, action, n))
		}
	}
	var skipped []string
	for _, reason := range slices.Sorted(maps.Keys(r.HeldBack)) {
		n := r.HeldBack[reason]
		if n == 0 || status.Waits(reason) {
			continue
		}
		word := fmt.Sprintf("%d %s", n, strings.ReplaceAll(reason, "_", " "))
		if reason == "holders_unknown" || reason == "owner_unknown" {
			word += " (sockdog doctor says why)"
		}
		skipped = append(skipped, word)
	}
	if len(skipped) > 0 {
		lines = append(lines, "skipped: "+strings.Join(skipped, ", "))
	}
	return strings.Join(lines, "; ")
}

func (w *report) groups(all []status.Rule) {
	table := term.NewTable("RULE", "GROUP", "PHASE", "VALUE")
	for i := range all {
		for j := range all[i].Groups {
			g := &all[i].Groups[j]
			if !g.Shown() {
				continue
			}
			phase := string(g.Phase)
			if !g.Since.IsZero() {
				phase += " for " + w.since(g.Since)
			}
			var values []string
			for _, c := range g.Conditions {
				values = append(values, fmt.Sprintf("%s %s%s (%s %s%s)", c.Metric, decimal(c.Value), c.Unit, c.Op, decimal(c.Threshold), c.Unit))
			}
			name := g.String()
			if all[i].Whole && len(g.Labels) == 0 {
				name = "all"
			}
			table.Row(all[i].Name, name, phase, strings.Join(values, ", "))
		}
	}
	w.table(table)
}

func (w *report) sockets(s *status.Status) {
	head := "SOCKETS"
	if age := s.Time.Sub(s.SocketsAt); !s.SocketsAt.IsZero() && age > status.NowFor {
		whole := (age + time.Second - 1).Truncate(time.Second)
		head = "SOCKETS, UP TO " + term.Short(whole) + " OLD"
	}
	table := term.NewTable("STATE", head)
	var missing []string
	for _, state := range status.States {
		if n, ok := s.Sockets[state]; ok {
			table.Row(strings.ToUpper(state), strconv.FormatUint(n, 10))
		} else {
			missing = append(missing, strings.ToUpper(state))
		}
	}
	w.table(table)
	var text string
	switch {
	case len(missing) == 0:
		return
	case !table.Empty():
		text = "not counted: " + strings.Join(missing, ", ")
		if s.Netns == "" {
			text += ", which costs much in several network namespaces (docs/watching.md)"
		}
	case s.SocketsEverySeconds == 0:
		text = "sockets by state: not counted yet"
	default:
		text = "sockets by state: not counted, as scans fail"
	}
	if table.Empty() {
		w.WriteByte('\n')
	}
	w.line("", text)
}

// mostActions is how many actions are printed: the journal has all.
const mostActions = 10

func (w *report) actions(s *status.Status) {
	last := s.Actions[:min(len(s.Actions), mostActions)]
	several := s.Netns == "" && slices.ContainsFunc(last, func(r journal.Record) bool { return r.Netns != "" })
	heads := []string{"TIME", "RULE", "ACTION", "LOCAL", "PEER OR GROUP", "HELD BY"}
	within, in := "", func(r *journal.Record) string { return r.Pod }
	switch {
	case slices.ContainsFunc(last, func(r journal.Record) bool { return r.Pod != "" }):
		within = "POD"
	case slices.ContainsFunc(last, func(r journal.Record) bool { return r.Container != "" }):
		within, in = "CONTAINER", func(r *journal.Record) string { return r.Container }
	}
	if within != "" {
		heads = append(heads, within)
	}
	if heads = append(heads, "REASON"); several {
		heads = append(heads, "NETNS")
	}
	table := term.NewTable(heads...)
	table.Columns[3].Spare, table.Columns[5].Spare = 1, 3
	if within != "" {
		table.Columns[6].Spare = 2
	}
	for i := range last {
		r := &last[i]
		src, dst, who := "-", "-", "-"
		switch {
		case r.Group != nil:
			g := status.Group{Labels: r.Group}
			dst = g.String()
		case r.Src.IsValid():
			src, dst = r.Src.String(), r.Dst.String()
		}
		if r.PID != 0 {
			who = fmt.Sprintf("%s[%d]", r.Comm, r.PID)
		}
		when := r.Time.Local().Format(time.DateTime)
		when = strings.TrimPrefix(when, s.Time.Local().Format(time.DateOnly+" ")) // today goes without saying
		table.Row(when, r.Rule, r.Words(), src, dst, who)
		if within != "" {
			table.Row(cmp.Or(in(r), "-"))
		}
		table.Row(r.Reason)
		if several {
			table.Row(cmp.Or(r.NetnsName, r.Netns, "-"))
		}
	}
	w.table(table)
}

// table prints a table after an empty line, and nothing where it has no rows.
func (w *report) table(table *term.Table) {
	if table.Empty() {
		return
	}
	w.WriteByte('\n')
	table.Wraps = true
	table.Print(w, w.cells) // a buffer takes everything
}

func ofSeconds(seconds float64) time.Duration { return time.Duration(seconds * float64(time.Second)) }

func decimal(x float64) string { return strconv.FormatFloat(x, 'f', -1, 64) }
