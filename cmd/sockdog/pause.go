package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sockdog/sockdog/internal/control"
	"github.com/sockdog/sockdog/internal/pause"
	"github.com/sockdog/sockdog/internal/status"
)

// controlFlags say how a running sockdog is reached.
type controlFlags struct {
	socket, stateDir string
	named            bool // the state directory is, on the command line
}

// controlSocketFlag adds --control-socket.
func controlSocketFlag(cmd *cobra.Command, path *string, use string) {
	cmd.Flags().StringVar(path, "control-socket", "", use)
	_ = cmd.MarkFlagFilename("control-socket") // there is such a flag
}

func (f *controlFlags) add(cmd *cobra.Command, use string) {
	controlSocketFlag(cmd, &f.socket, "`path` of the socket that sockdog run hears commands on, if it has the same flag")
	stateDirFlag(cmd, &f.stateDir, use)
}

// paths are where the socket may be. That of a directory which was named is there, or
// nowhere: another sockdog may have the default.
func (f *controlFlags) paths() []string {
	paths := control.Paths(f.socket, f.stateDir)
	if f.named && f.socket == "" {
		paths = paths[len(paths)-1:]
	}
	return paths
}

// ask has a running sockdog do something. Where none answers, byFile does it by the file in the
// state directory, if that is known.
func (f *controlFlags) ask(cmd *cobra.Command, r control.Request, byFile func(file string) error) (*control.Reply, error) {
	f.named = f.stateDir != "" && cmd.Flags().Changed("state-dir")
	if f.socket == control.Off {
		return nil, usage{errors.New("--control-socket is a path here")}
	}
	reply, err := control.Ask(cmd.Context(), f.paths(), r)
	if !errors.Is(err, control.ErrNobody) {
		return reply, err
	}
	switch {
	case byFile == nil:
		return nil, fmt.Errorf("%w: start it, or give this command the --control-socket of sockdog run, or its --state-dir", err)
	case f.stateDir == "":
		return nil, fmt.Errorf("%w: give this command the --control-socket of sockdog run, or its --state-dir", err)
	default:
		return nil, byFile(filepath.Join(f.stateDir, pause.FileName))
	}
}

func pauseCommand() *cobra.Command {
	var f controlFlags
	var within time.Duration
	cmd := &cobra.Command{
		Use:   "pause [--for DURATION] REASON",
		Short: "Stop all acting, until resume or for a while",
		Long: `Have a running sockdog act on nothing: what falls due waits, and goes on by the limits
after sockdog resume. Alerts, dry runs, the log and the page go on. The reason stands
wherever somebody may wonder. Only root and the user that sockdog runs as may do this.

The pause is kept in the state directory and outlives a restart. If no sockdog answers,
--state-dir DIR puts the file "paused" there by itself: a sockdog that uses the directory
stops acting within a second, and one that starts with it does not begin to.`,
		Example: "  sockdog pause --for 1h INC-4711: the database fails over\n  sockdog pause --state-dir /var/lib/sockdog no sockdog answers",
		Args: func(_ *cobra.Command, args []string) error {
			if strings.TrimSpace(strings.Join(args, " ")) == "" {
				return errors.New("pause needs a reason, for those who find that nothing is killed")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.pause(cmd, strings.Join(args, " "), within)
		},
	}
	durationFlag(cmd, &within, "for", "`duration` after which it ends by itself, such as 1h", "15m", "1h", "1d")
	f.add(cmd, "state `directory` of the sockdog to pause, by a file if it does not answer")
	return cmd
}

func (f *controlFlags) pause(cmd *cobra.Command, reason string, within time.Duration) error {
	out, until := cmd.OutOrStdout(), ""
	p := status.Pause{Reason: reason, By: pause.Who(uint32(os.Geteuid())), Since: time.Now()}
	if within > 0 {
		p.Until = p.Since.Add(within)
		until = " until " + p.Until.Format(time.RFC3339)
	}
	reply, err := f.ask(cmd, control.Request{Command: control.CommandPause, Reason: reason, For: control.Wait(within.Seconds())}, func(file string) error {
		if err := pause.WriteIn(f.stateDir, &p); err != nil {
			return noFile(err)
		}
		fmt.Fprintf(out, "no sockdog answers: %s pauses one that uses the directory%s, within a second and when it starts\n", file, until)
		return nil
	})
	if reply == nil {
		return err
	}
	fmt.Fprintf(out, "sockdog (pid %d) acts on nothing%s; sockdog resume ends that\n", reply.PID, until)
	if reply.Warning != "" {
		fmt.Fprintln(cmd.ErrOrStderr(), "sockdog: "+reply.Warning)
	}
	return nil
}

func resumeCommand() *cobra.Command {
	var f controlFlags
	cmd := &cobra.Command{
		Use:   "resume",
		Short: "Let a paused sockdog act again",
		Long: `End what sockdog pause began, or a file "paused" in the state directory. What waits is
matched and asked for again, and acted on in its order as fast as the limits allow.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.resume(cmd) },
	}
	f.add(cmd, "state `directory` of the sockdog to resume, by its file if it does not answer")
	return cmd
}

func (f *controlFlags) resume(cmd *cobra.Command) error {
	out := cmd.OutOrStdout()
	reply, err := f.ask(cmd, control.Request{Command: control.CommandResume}, func(file string) error {
		was, err := pause.RemoveIn(f.stateDir)
		switch {
		case err != nil:
			return noFile(err)
		case was:
			fmt.Fprintf(out, "no sockdog answers: %s is removed\n", file)
		default:
			fmt.Fprintf(out, "no sockdog answers, and there is no %s\n", file)
		}
		return nil
	})
	if reply == nil {
		return err
	}
	if !reply.Was {
		fmt.Fprintf(out, "sockdog (pid %d) was not paused\n", reply.PID)
		return nil
	}
	fmt.Fprintf(out, "sockdog (pid %d) acts again\n", reply.PID)
	return nil
}

// noFile says that nothing was done: neither by a sockdog nor by the file.
func noFile(err error) error { return fmt.Errorf("no sockdog answers, and not by the file: %w", err) }

func ruleCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rule",
		Short: "Let a rule act again that has stopped itself",
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage{fmt.Errorf("rule takes reset NAME, and was given %q", args[0])}
			}
			cmd.Help()
			return usage{errors.New("rule takes: reset NAME")}
		},
	}
	cmd.AddCommand(resetCommand())
	return cmd
}

func resetCommand() *cobra.Command {
	var f controlFlags
	cmd := &cobra.Command{
		Use:   "reset NAME",
		Short: "Let a rule act again that has stopped itself",
		Long: `Let a rule of a running sockdog act again that has stopped itself, because what it did
harmed a program. Look at that first: sockdog status says which it is. The rule begins
with a canary again, where it has one.`,
		Args: checked(func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errors.New("rule reset needs the name of one rule")
			}
			return nil
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.reset(cmd, args[0])
		},
	}
	f.add(cmd, "state `directory` of the sockdog to tell, in which it has a control socket")
	return cmd
}

func (f *controlFlags) reset(cmd *cobra.Command, rule string) error {
	out := cmd.OutOrStdout()
	reply, err := f.ask(cmd, control.Request{Command: control.CommandReset, Rule: rule}, nil)
	if unknown := (*control.UnknownRule)(nil); errors.As(err, &unknown) {
		if near := nearest(rule, unknown.Rules); near != "" {
			return fmt.Errorf("%w: did you mean %s?", err, near)
		}
		return fmt.Errorf("%w: there are\n%s", err, columnNames(unknown.Rules))
	}
	if err != nil {
		return err
	}
	if !reply.Was {
		fmt.Fprintf(out, "rule %s of sockdog (pid %d) had not stopped itself\n", rule, reply.PID)
		return nil
	}
	fmt.Fprintf(out, "rule %s of sockdog (pid %d) acts again\n", rule, reply.PID)
	return nil
}
