package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sockdog/sockdog/internal/counters"
	"github.com/sockdog/sockdog/internal/daemon"
	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/spin"
	"github.com/sockdog/sockdog/internal/engine/track"
	"github.com/sockdog/sockdog/internal/holders"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/sockettable"
	"github.com/sockdog/sockdog/internal/term"
	"github.com/sockdog/sockdog/rules"
)

func planCommand() *cobra.Command {
	var file, output string
	var ages ageFlags
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Show what each rule would do now, and to which sockets",
		Long: `Look once at the socket table and show what each rule would do, to which sockets,
and when, if nothing changed; of a rule about groups, what it fires at, how many
sockets match now, and the groups that are nearest to firing. Nothing is touched.
Ages that only observation knows come from a running sockdog, which is asked as
sockdog list asks it, or its state directory. ≥ marks a lower bound, and ≤ when
something falls due at the latest. Limits are not counted, and growth takes more
than one look.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			if err := ages.check(cmd); err != nil {
				return usage{err}
			}
			set := rules.Default()
			if file != "" {
				text, err := readRules(file)
				if err != nil {
					return problem(err)
				}
				if set, err = parseText(cmd.ErrOrStderr(), file, text); err != nil {
					return err
				}
			}
			if err := plan(cmd, set, &ages, output); err != nil {
				return problem(err)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "rules", "", "`file` of rules; without it the built-in ones")
	ages.flags(cmd)
	cmd.Flags().StringVarP(&output, "output", "o", "table", "`format`: table or json")
	return cmd
}

// planned is a forecast in -o json, under the names that the log uses.
type planned struct {
	Rule   string  `json:"rule"`
	Action string  `json:"action"`
	DryRun bool    `json:"dry_run"`
	DueIn  float64 `json:"due_in"` // seconds; 0: now
	Not    string  `json:"not,omitempty"`
	Reason string  `json:"reason"`
	sockettable.Object
}

// plannedGroup is how a group stands in -o json, under the names that the log uses.
type plannedGroup struct {
	Rule    string            `json:"rule"`
	Action  string            `json:"action"` // group
	Result  engine.Phase      `json:"result"`
	DryRun  bool              `json:"dry_run"`
	Reason  string            `json:"reason"`
	Group   map[string]string `json:"group"`
	Sockets int               `json:"sockets"`
}

func groupOf(r *engine.RuleOverview, g *engine.GroupOverview) plannedGroup {
	p := plannedGroup{Rule: r.Name, Action: "group", Result: g.Phase, DryRun: r.DryRun, Group: engine.ByName(g.Group), Sockets: g.Count}
	conditions := make([]string, len(r.When))
	for i, c := range r.When {
		conditions[i] = fmt.Sprintf("%s (%s)", valueOf(g, c.Metric), c)
	}
	p.Reason = strings.Join(conditions, " and ")
	return p
}

// valueOf is what a group measures, as a condition has it.
func valueOf(g *engine.GroupOverview, m rules.Metric) string {
	if m == rules.Growth {
		return "growth not known" // by one scan
	}
	return string(m) + " " + g.Text(m)
}

func plan(cmd *cobra.Command, set *rules.Set, ages *ageFlags, output string) error {
	h, err := openHost()
	if err != nil {
		return err
	}
	known, err := ages.ask(cmd.Context(), h)
	if err != nil {
		return err
	}
	known.warn(cmd.ErrOrStderr())
	kernel, err := h.openKernel()
	if err != nil {
		return err
	}
	defer kernel.Close()
	survey := engine.ScanAll(engine.Compile(set), h.precision)
	finding := survey.Begin(h.now())
	if err := kernel.Scan(survey.Query, finding.Take); err != nil {
		return err
	}
	found, err := holders.Find(procRoot, finding.Inodes())
	if err != nil {
		return err
	}
	all := engine.Forecasts(finding, engine.Config{Precision: h.precision, Self: os.Getpid()}, h.engineCapabilities(), known.Restored,
		engine.HoldersFound{Holders: found.Holders, Complete: found.Complete}, h.now())
	slices.SortStableFunc(all, func(a, b engine.Forecast) int { return cmp.Compare(a.In, b.In) })
	groups, err := groupsNow(set, h, kernel, known.Restored)
	if err != nil {
		return err
	}
	if output == "json" {
		var objects []any
		for i := range all {
			objects = append(objects, plannedOf(&all[i]))
		}
		for i := range groups {
			for j := range groups[i].Groups {
				objects = append(objects, groupOf(&groups[i], &groups[i].Groups[j]))
			}
		}
		return term.JSONOf(cmd.OutOrStdout(), objects)
	}
	if err := printPlan(cmd.OutOrStdout(), set, all, groups); err != nil {
		return err
	}
	bound := slices.ContainsFunc(all, func(f engine.Forecast) bool { return f.Bound })
	if bound && known.missing != "" && !known.loud {
		fmt.Fprintf(cmd.ErrOrStderr(), "sockdog: ≥ marks what may be older: %s\n", known.missing)
	}
	return nil
}

// groupsNow says how the rules about groups stand by what an engine looks at first
// that has just begun. The result is empty where there are none.
func groupsNow(set *rules.Set, h *host, kernel daemon.Kernel, restored engine.Restored) ([]engine.RuleOverview, error) {
	if !slices.ContainsFunc(set.Rules, func(r rules.Rule) bool { return len(r.When) > 0 }) {
		return nil, nil
	}
	counts, err := counters.Open()
	if err != nil {
		return nil, err
	}
	defer counts.Close()
	first := &firstScans{kernel: kernel, counts: counts, now: h.now}
	d := engine.Driver{Engine: engine.New(engine.Config{Precision: h.precision, Self: os.Getpid()}), Now: h.now, Workers: first}
	d.Start(h.engineCapabilities(), restored)
	d.Step(engine.RulesChanged{Program: engine.Compile(set)})
	for len(first.came) > 0 && first.err == nil {
		in := first.came[0]
		first.came = first.came[1:]
		d.Step(in)
	}
	return d.Engine.Overview(h.now()).Rules, first.err
}

// firstScans reads for an engine that has just begun what it wants first, and does
// nothing else that it wants.
type firstScans struct {
	kernel daemon.Kernel
	counts daemon.Counters
	now    func() sock.Instant
	scans  int
	came   []engine.Input
	err    error
}

// Count reads the counters until each class of rules was scanned for.
func (f *firstScans) Count() {
	if f.scans < 2 {
		f.came = append(f.came, daemon.Count(f.counts))
	}
}

// Scan reads the socket table.
func (f *firstScans) Scan(s *engine.Scan) {
	f.scans++
	sent := f.now()
	result := s.Begin(sent)
	f.err = f.kernel.Scan(s.Query, result.Take)
	f.came = append(f.came, engine.ScanDone{Result: result, Sent: sent})
}

func (*firstScans) Record(*engine.Plan)   {}
func (*firstScans) Lookup([]sock.ID)      {}
func (*firstScans) Act([]engine.Action)   {}
func (*firstScans) Resolve([]uint32)      {}
func (*firstScans) Read([]uint32)         {}
func (*firstScans) Sample([]spin.Process) {}

func plannedOf(f *engine.Forecast) planned {
	age := track.Age{InState: f.InStateFor, Idle: f.IdleFor, Known: true, Exact: !f.Bound}
	return planned{
		Rule: f.Rule, Action: f.Kind.Name, DryRun: f.DryRun, DueIn: sockettable.Seconds(max(0, f.In)), Not: f.Not, Reason: f.Reason,
		Object: sockettable.ObjectOf(&f.Socket, age, f.Holders, netnsName()),
	}
}

func printPlan(out io.Writer, set *rules.Set, all []engine.Forecast, groups []engine.RuleOverview) error {
	for i, r := range set.Rules {
		if i > 0 {
			fmt.Fprintln(out)
		}
		table := term.TableOf("  ACTION", "LOCAL", "PEER", "HELD BY", "BECAUSE", "WHEN")
		table.Layout.Spare = []int{1, 3}
		now, later, not := 0, 0, 0
		for j := range all {
			f := &all[j]
			if f.Rule != r.Name {
				continue
			}
			p := plannedOf(f)
			when := "now"
			switch {
			case f.Not != "":
				when = "not: " + f.Not
				not++
			case f.In > 0:
				when = "in " + term.Short(f.In)
				if f.Bound {
					when = "in ≤" + term.Short(f.In)
				}
				later++
			default:
				now++
			}
			who := "-"
			if p.PID != 0 {
				who = fmt.Sprintf("%s[%d]", p.Comm, p.PID)
			}
			table.Row("  "+p.Action, p.Src, p.Dst, who, p.Reason, when)
		}
		mode := ""
		switch {
		case !r.Enabled:
			mode = ", disabled"
		case r.DryRun:
			mode = ", dry run"
		}
		if len(r.When) == 0 {
			fmt.Fprintf(out, "%s: %s now, %d later, %d left alone%s\n", r.Name, term.Count(now, "action"), later, not, mode)
		} else if err := printGroups(out, &r, &groups[i], mode); err != nil {
			return err
		}
		if !table.Empty() {
			if err := table.Print(out, term.ScreenOf(out).Width); err != nil {
				return err
			}
		}
	}
	return nil
}

// printGroups prints what the rule fires at, and how near its groups are to that.
func printGroups(out io.Writer, r *rules.Rule, now *engine.RuleOverview, mode string) error {
	conditions := make([]string, len(r.When))
	for i, c := range r.When {
		conditions[i] = c.String()
	}
	long := ""
	if r.For > 0 {
		long = " for " + term.Short(r.For)
	}
	match := fmt.Sprintf("%d sockets match", now.Sockets)
	if now.Sockets == 1 {
		match = "1 socket matches"
	}
	fmt.Fprintf(out, "%s: fires when %s%s; now %s%s\n", r.Name, strings.Join(conditions, " and "), long, match, mode)
	table := term.TableOf("  GROUP", "VALUE", "PHASE")
	for i := range now.Groups {
		g := &now.Groups[i]
		name := make([]string, len(g.Group))
		for j, l := range g.Group {
			name[j] = l.Name + "=" + l.Value
		}
		var values []string
		for _, c := range r.When {
			value := valueOf(g, c.Metric)
			if !slices.Contains(values, value) {
				values = append(values, value)
			}
		}
		table.Row("  "+cmp.Or(strings.Join(name, " "), "all sockets"), strings.Join(values, ", "), string(g.Phase))
	}
	if table.Empty() {
		return nil
	}
	return table.Print(out, term.ScreenOf(out).Width)
}
