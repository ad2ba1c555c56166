package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sockdog/sockdog/internal/client"
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
		Long: `Watch the socket table of this network namespace and apply the rules.

The rules file is read again whenever it changes and on SIGHUP. A file with an error
changes nothing. Without --rules, the built-in rules watch and report, and never act.
On SIGTERM or SIGINT the daemon finishes the current action and ends within a second.

The address of --listen serves, read-only: a status page (/), the same as JSON
(/api/v1/status), metrics for Prometheus (/metrics), /healthz and /readyz.

Exit status: 0 ended by a signal; 1 a problem on this machine; 2 wrong usage, or a
crash; 78 bad or missing rules at the start, which no restart cures.`,
		Example: "  sockdog run\n  sockdog run --rules /etc/sockdog/rules.yaml --state-dir /var/lib/sockdog",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.onBadRules != "exit" && f.onBadRules != "observe" {
				return usage{fmt.Errorf("--on-bad-rules is exit or observe, not %q", f.onBadRules)}
			}
			if f.Rules == "-" {
				return usage{errors.New("run reads its rules again whenever they change, so it takes no standard input: write them to a file")}
			}
			if err := checkListen(f.Listen); err != nil {
				return usage{err}
			}
			if err := checkListenNames(f.ListenNames); err != nil {
				return usage{err}
			}
			form, err := service.LogForm(cmd.ErrOrStderr(), f.logFormat)
			if err != nil {
				return usage{err}
			}
			log, err := service.NewLog(cmd.ErrOrStderr(), form, f.logLevel)
			if err != nil {
				return usage{err}
			}
			f.Observe, f.Version = f.onBadRules == "observe", version()
			if err := service.Run(cmd.Context(), log, f.Config); err != nil {
				return f.tell(err, form, log, cmd.ErrOrStderr())
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&f.Rules, "rules", "", "rules `file`; without it the built-in rules only watch")
	cmd.Flags().StringVar(&f.onBadRules, "on-bad-rules", "exit", "`what` to do if the rules are bad or missing at the start: exit or observe")
	cmd.Flags().StringVar(&f.StateDir, "state-dir", stateDirectory(), "`directory` for the journal and for state that outlives a restart; default: $STATE_DIRECTORY, which systemd sets")
	cmd.Flags().StringVar(&f.Listen, "listen", client.DefaultAddress, "`address` that serves the page, metrics and status, or off")
	cmd.Flags().StringSliceVar(&f.ListenNames, "listen-name", nil, "host `name` to accept in requests beside addresses, localhost and the host's own name; repeatable")
	cmd.Flags().StringVar(&f.logFormat, "log-format", "auto", "`format`: text, json, or auto: text on a terminal and in the systemd journal, else JSON")
	cmd.Flags().StringVar(&f.logLevel, "log-level", "info", "`level`: info, or debug, which also logs how sockets are matched")
	return cmd
}

// stateDirectory is systemd's, the first where the unit names several.
func stateDirectory() string {
	dir, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":")
	return dir
}

// tell says why the daemon does not start: to people with an excerpt of each
// mistake, and to what reads logs in one record.
func (f *runFlags) tell(err error, form string, log *slog.Logger, out io.Writer) error {
	const (
		noRules = "sockdog does not start without good rules"
		cure    = "--on-bad-rules observe starts it all the same, and touches nothing"
	)
	var problems rules.Problems
	bad := errors.As(err, new(service.BadRules))
	switch {
	case bad && form != service.LogText:
		log.Error(noRules, "file", f.Rules, "error", daemon.Mistakes(f.Rules, err), "cure", cure)
		return service.BadRules{Err: errors.New("")}
	case form != service.LogText:
		log.Error("sockdog does not start", "error", err.Error())
		return found{}
	case errors.As(err, &problems):
		fmt.Fprint(out, problems.Report(f.Rules))
		return service.BadRules{Err: fmt.Errorf("%s: %s; %s (%s)", f.Rules, term.Count(problems.Count(), "problem"), noRules, cure)}
	case bad:
		return service.BadRules{Err: fmt.Errorf("%w; %s (%s)", err, noRules, cure)}
	default:
		return problem(err)
	}
}
