package main

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/sockdog/sockdog/internal/client"
	"github.com/sockdog/sockdog/internal/host"
	"github.com/sockdog/sockdog/internal/plan"
	"github.com/sockdog/sockdog/internal/status"
	"github.com/sockdog/sockdog/internal/term"
	"github.com/sockdog/sockdog/rules"
)

func planCommand() *cobra.Command {
	var file, output string
	var ages client.Observers
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Show what each rule would do now, and to which sockets",
		Long: `Scan the socket table once (with "namespaces: all" in the rules file, those of every
network namespace of the host) and show what each rule would do, to which sockets and
when, if nothing changed; and which it leaves alone, and why. Of each sort ten sockets
are shown, and the others counted; -o json has all. For a rule about groups: its
condition, how many sockets match now, and the groups that are closest to firing.
Nothing is touched.

Where the kernel does not tell an age, a running sockdog or its state directory is
asked, as by sockdog list. ≥ marks a lower bound; ≤ marks the latest instant at which
an action falls due. Limits count for what is due now, and growth cannot be known from
one scan.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ages.Named = cmd.Flags().Changed("daemon")
			set := rules.Default()
			if file != "" {
				var err error
				if set, err = loadRules(cmd.ErrOrStderr(), file); err != nil {
					return err
				}
			}
			return printPlan(cmd, set, file != "", &ages, output)
		},
	}
	rulesFlag(cmd, &file, "rules `file`; without it the built-in rules")
	ageFlags(cmd, &ages)
	outputFlag(cmd, &output)
	return cmd
}

// warnOfRest says where the running sockdog does nothing of what is planned, as it is paused, a
// rule has stopped itself, or the file says to watch other network namespaces.
func warnOfRest(ctx context.Context, set *rules.Set, ofFile bool, ages *client.Observers, stderr io.Writer) {
	running := ages.DaemonStatus(ctx)
	if running == nil {
		return // that nobody answers is said where ages are asked for
	}
	if running.Paused != nil {
		fmt.Fprintln(stderr, "sockdog: acting is paused, and nothing of this is done until it is resumed:", term.Printable(running.Paused.Words()))
	}
	all := watchesAll(running)
	watched := "its own network namespace"
	if all {
		watched = "all network namespaces"
	}
	switch wanted := set.Settings.Namespaces == rules.AllNamespaces; {
	case !ofFile && all:
		fmt.Fprintln(stderr, "sockdog: this plans the built-in rules for this network namespace, and the running sockdog watches all: sockdog plan --rules FILE takes its rules")
	case ofFile && wanted != all:
		fmt.Fprintf(stderr, "sockdog: the running sockdog watches %s, and reads settings.namespaces at its start: restart it for these rules\n", watched)
	}
	for i := range running.Rules {
		r := &running.Rules[i]
		planned := slices.ContainsFunc(set.Rules, func(p rules.Rule) bool { return p.Name == r.Name })
		if planned && r.Mode == status.Stopped {
			fmt.Fprintf(stderr, "sockdog: rule %s has stopped itself, and does nothing of this until it is changed, or sockdog rule reset %[1]s\n", term.Printable(r.Name))
		}
	}
}

func printPlan(cmd *cobra.Command, set *rules.Set, ofFile bool, ages *client.Observers, output string) error {
	h, err := host.Probe()
	if err != nil {
		return err
	}
	known, err := ages.Ask(cmd.Context(), h)
	if err != nil {
		return err
	}
	known.Warn(cmd.ErrOrStderr())
	warnOfRest(cmd.Context(), set, ofFile, ages, cmd.ErrOrStderr())
	p, err := plan.Make(set, h, known.Restored)
	if err != nil {
		return err
	}
	if p.LeftOut != nil {
		fmt.Fprintln(cmd.ErrOrStderr(), "sockdog: not all network namespaces are planned for:", oneLine(p.LeftOut))
	}
	if p.Hung != "" {
		fmt.Fprintln(cmd.ErrOrStderr(), "sockdog:", p.Hung)
	}
	out := cmd.OutOrStdout()
	if output == "json" {
		return p.PrintJSON(out)
	}
	if err := p.Print(out, term.ScreenOf(out).Width); err != nil {
		return err
	}
	if p.Bound() && known.Missing != "" && !known.Loud {
		fmt.Fprintf(cmd.ErrOrStderr(), "sockdog: ≥ marks what may be older: %s\n", known.Missing)
	}
	return nil
}
