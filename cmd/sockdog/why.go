package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/sockdog/sockdog/internal/action"
	"github.com/sockdog/sockdog/internal/client"
	"github.com/sockdog/sockdog/internal/host"
	"github.com/sockdog/sockdog/internal/inspect"
	"github.com/sockdog/sockdog/internal/selection"
	"github.com/sockdog/sockdog/internal/status"
	"github.com/sockdog/sockdog/internal/term"
	"github.com/sockdog/sockdog/internal/why"
)

const whyLong = `Say who leaks sockets, and why: a line for each owner and peer with how many, the age
of the oldest, how fast they grow and how many descriptors the owner has used of its
limit, and a sentence on what that means and what to look for in the program. A
filter, written as for sockdog list, narrows it to some sockets.

  eof-read-not-closed  the program read the end of the stream, and forgot to close
  eof-unread           the program never read the end of the stream
  unread-data          there is data that the program has not read
  in-backlog           the program has stopped accepting, or is too slow
  dead-sockets         its sockets were killed or reset, and it has never closed them
  not-reading          data arrives that the program does not read
  peer-silent          what the program sends is not acknowledged
  peer-not-closing     the program has shut the connection down, the peer does not close

No leaks by themselves, and told where there are many: still-sending (half-closed on
purpose), idle (a pool), unanswered (no answer to connect) and time-wait. mptcp marks
connections of Multipath TCP, of which nothing is killed; not-closed,mptcp are those
that the peer has closed, and the program has not.

How fast they grow is measured with --watch, and else told by their ages where these are
exact: a running sockdog is asked for them as by sockdog list. To see owners takes
rights: what could not be seen is said, with what allows it.

--rules prints a rules file that would heal what was found, in dry_run.

The exit status is 1 if it could not be seen who owns the sockets that were found.`

// whyCommand says who leaks.
func whyCommand() *cobra.Command {
	var w explanation
	cmd := &cobra.Command{
		Use:   "why [flags] [state STATE]... [FILTER]",
		Short: "Say who leaks sockets, and why",
		Long:  whyLong,
		Example: `  sockdog why
  sockdog why --watch=30s dport = 5432
  sockdog why --rules > rules.yaml && sockdog plan --rules rules.yaml`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: completeFilter,
		RunE: func(cmd *cobra.Command, args []string) error {
			w.Named = cmd.Flags().Changed("daemon")
			if w.rules && cmd.Flags().Changed("output") {
				return usage{errors.New("--rules prints a rules file: leave out -o")}
			}
			if err := w.Parse(args); err != nil {
				return usage{err}
			}
			w.All, w.Listening = false, false
			return w.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	selectionFlags(cmd, &w.Selection)
	for _, other := range []string{"all", "listening"} { // it looks at listening sockets by itself
		cmd.Flags().Lookup(other).Hidden = true
	}
	ageFlags(cmd, &w.Observers)
	refuse(cmd, "kill", "K", "write sockdog kill")
	refuse(cmd, "cgroup", "", "-o json has the unit, the container and the pod; a filter may name a cgroup")
	outputFlag(cmd, &w.output)
	durationFlag(cmd, &w.watch, "watch", "measure how fast they grow, for this `duration`, such as 30s", "30s", "1m", "5m")
	cmd.Flags().BoolVar(&w.rules, "rules", false, "print rules that would heal it, in dry_run")
	cmd.Flags().BoolVar(&w.all, "namespaces", false, "look into every network namespace of the host")
	return cmd
}

// explanation is what sockdog why is asked for.
type explanation struct {
	selection.Selection
	client.Observers
	output     string
	watch      time.Duration
	rules, all bool
}

// run reads once, or at both ends of the watch, and prints what that means.
func (w *explanation) run(ctx context.Context, out, stderr io.Writer) error {
	raiseForMarks(&w.Selection, stderr)
	h, err := host.New()
	if err != nil {
		return err
	}
	source, err := openSource(h, w.all, stderr)
	if err != nil {
		return err
	}
	defer source.Close()
	if w.all && w.watch > 0 {
		source.Start() // finding those that come
	}
	scanner, err := source.OpenScanner()
	if err != nil {
		return err
	}
	defer scanner.Close()
	in, err := w.read(ctx, h, scanner, stderr)
	if err != nil {
		return err
	}
	if err := source.State().LeftOut; err != nil {
		in.Left = append(in.Left, "Not all network namespaces could be looked into: "+oneLine(err))
	}
	return w.print(why.Explain(in), out, stderr)
}

// read reads what is to be explained.
func (w *explanation) read(ctx context.Context, h *host.Host, scanner inspect.Scanner, stderr io.Writer) (*why.Input, error) {
	known, err := w.Ask(ctx, h)
	if err != nil {
		return nil, err
	}
	known.Warn(stderr)
	x := inspect.Inspector{
		Scanner: scanner, Query: w.Query(), Whole: w.Filter.Where == nil && w.Filter.States == 0 && w.IPv4 == w.IPv6,
		Memories: known.ByKey(), Now: h.Now, Precision: h.Precision, ProcRoot: host.ProcRoot, Pass: host.ExactHolderPass(),
	}
	began := h.Now()
	seen, err := x.Read(ctx)
	if err != nil {
		return nil, err
	}
	in := &why.Input{Whole: x.Whole, Several: w.all}
	if running := w.DaemonStatus(ctx); running != nil {
		in.Elsewhere = !w.all && watchesAll(running)
		if x.Whole {
			in.Kills = killsOf(running)
		}
	}
	if w.watch > 0 {
		in.Before = &seen.Reading
		select {
		case <-time.After(w.watch - h.Now().Sub(began)):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		in.Watched = h.Now().Sub(began) // from scan to scan
		if seen, err = x.Read(ctx); err != nil {
			return nil, err
		}
	}
	in.Now, in.Latest, in.Unseen, in.Cure, in.Left = time.Now(), seen.Reading, seen.Unseen, seen.Cure, seen.Left
	return in, nil
}

// killsOf returns what programs made of the kills of a running sockdog.
func killsOf(running *status.Status) (all []why.Kills) {
	for i := range running.Rules {
		r := &running.Rules[i]
		all = append(all, why.Kills{Rule: r.Name, Closed: r.Descriptors.Closed, Open: r.Descriptors.Open, Unknown: r.Descriptors.Unknown})
	}
	return all
}

// print prints what was found, as was asked.
func (w *explanation) print(report *why.Report, out, stderr io.Writer) error {
	var err error
	switch {
	case w.rules:
		err = report.PrintRules(out, action.InRules(action.Kinds()))
	case w.output == "json":
		err = report.PrintJSON(out)
		for _, line := range report.Remarks() {
			fmt.Fprintln(stderr, "sockdog:", line)
		}
	default:
		err = report.Print(out, term.ScreenOf(out).Width)
	}
	if err == nil && report.Unowned() > 0 {
		return errPrinted
	}
	return err
}
