package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sockdog/sockdog/internal/action"
	"github.com/sockdog/sockdog/internal/daemon"
	"github.com/sockdog/sockdog/internal/service"
	"github.com/sockdog/sockdog/internal/term"
	"github.com/sockdog/sockdog/rules"
)

type runFlags struct {
	service.Config
	onBadRules, logFormat, logLevel string
}

func runCommand() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Watch the socket table and apply the rules",
		Long: `Watch the socket table of this network namespace and apply the rules; with
"settings: {namespaces: all}" in the rules file, those of every one of the host.

The rules file is read again whenever it changes and on SIGHUP. A file with an error
changes nothing. Without --rules, the built-in rules watch and report, and never act.
A rule with an action that --allow does not list is such an error.
On SIGTERM or SIGINT the daemon finishes the current action and ends within a second.

sockdog pause stops all acting of a running daemon, over restarts, until sockdog resume.

Where the kernel and the privileges allow it, events tell exactly since when stuck
sockets have been in their states; else the age is what sock_diag tells. sockdog doctor
says what is missing, and docs/events.md what it takes.

The address of --listen serves, read-only: a status page (/), the same as JSON
(/api/v1/status), metrics for Prometheus (/metrics), /healthz and /readyz.

Exit status: 0 ended by a signal; 1 a problem on this machine; 2 wrong usage, or a
crash; 78 bad or missing rules at the start, which no restart cures.`,
		Example: "  sockdog run\n  sockdog run --rules /etc/sockdog/rules.yaml --state-dir /var/lib/sockdog",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.Rules == "-" {
				return usage{errors.New("run reads its rules again whenever they change, so it takes no standard input: write them to a file")}
			}
			if err := checkListenNames(f.ListenNames); err != nil {
				return usage{err}
			}
			level := slog.LevelInfo
			if f.logLevel == "debug" {
				level = slog.LevelDebug
			}
			form := service.LogForm(cmd.ErrOrStderr(), f.logFormat)
			log := service.NewLog(cmd.ErrOrStderr(), form, level)
			if f.Allow == nil {
				f.Allow = action.AllowedByDefault(action.Kinds())
			}
			f.Observe, f.Version = f.onBadRules == "observe", version()
			if err := service.Run(cmd.Context(), log, f.Config); err != nil {
				return f.tell(err, form, log, cmd.ErrOrStderr())
			}
			return nil
		},
	}
	rulesFlag(cmd, &f.Rules, "rules `file`; without it the built-in rules only watch")
	oneOf(cmd, &f.onBadRules, "on-bad-rules", "", "`what` to do if the rules are bad or missing at the start: %s",
		"exit\tend with status 78", "observe\twatch with the built-in rules, and touch nothing")
	oneOf(cmd, &f.Source, "source", "", "`where` sockets come from: %s; auto is events where these can be had",
		"auto\tevents where they can be had, else sock_diag", "sock_diag\tscans of the socket table", "events\tthe kernel tells when sockets change; an error where it cannot")
	allowFlag(cmd, &f.Allow, "the `actions` that rules may have; by default "+strings.Join(action.AllowedByDefault(action.Kinds()), ",")+": what goes beyond sockets must be listed")
	stateDirFlag(cmd, &f.StateDir, "`directory` for the journal and for state that outlives a restart; default: $STATE_DIRECTORY, which systemd sets")
	addressFlag(cmd, &f.Listen, "listen", "`address` that serves the page, metrics and status, or off", ":9797", "off")
	controlSocketFlag(cmd, &f.Control, "`path` of the socket to hear sockdog pause, resume and rule reset on, or off; default: control.sock in $RUNTIME_DIRECTORY or /run/sockdog, and in the state directory")
	cmd.Flags().StringSliceVar(&f.ListenNames, "listen-name", nil, "host `name` to accept in requests beside addresses, localhost and the host's own name; repeatable")
	oneOf(cmd, &f.logFormat, "log-format", "", "`format`: %s; auto is text on a terminal and in the systemd journal, else JSON",
		"auto\ttext on a terminal and in systemd's journal, else JSON", "text", "json")
	oneOf(cmd, &f.logLevel, "log-level", "", "`level`: %s; debug also logs how sockets are matched", "info", "debug\thow sockets are matched, too")
	return cmd
}

// tell says why the daemon does not start: to people with an excerpt of each
// mistake, and to what reads logs in one record.
func (f *runFlags) tell(err error, form string, log *slog.Logger, out io.Writer) error {
	const noRules = "sockdog does not start without good rules"
	cure := fmt.Sprintf("mend the file, and try it with sockdog check %s; --on-bad-rules observe starts all the same, and touches nothing", f.Rules)
	var problems rules.Problems
	bad := errors.As(err, new(service.BadRules))
	switch {
	case bad && form != service.LogText:
		log.Error(noRules, "file", f.Rules, "error", daemon.Mistakes(f.Rules, err), "cure", cure)
		return service.BadRules{Err: errors.New("")}
	case form != service.LogText:
		log.Error("sockdog does not start", "error", err.Error())
		return errPrinted
	case errors.As(err, &problems):
		fmt.Fprint(out, problems.Report(f.Rules))
		return service.BadRules{Err: fmt.Errorf("%s: %s; %s (%s)", f.Rules, term.Count(problems.Count(), "problem"), noRules, cure)}
	case bad:
		return service.BadRules{Err: fmt.Errorf("%w; %s (%s)", err, noRules, cure)}
	default:
		return err
	}
}
func checkListenNames(names []string) error {
	const allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-" // in a Host header, before the port
	for _, name := range names {
		if name == "" || strings.Trim(name, allowed) != "" {
			return fmt.Errorf("--listen-name is the name of a host without a port, not %q", name)
		}
	}
	return nil
}
