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
		Short: "Watch, and act by the rules",
		Long: `Watch the socket table of this network namespace and act by the rules.

The file of --rules is read again whenever it changes, and on SIGHUP; a file with
a mistake changes nothing. Without --rules the built-in rules watch and report,
and touch nothing. SIGTERM and SIGINT finish the act under way, within a second.

On the address of --listen stand, for reading only: a page that shows how things
are (/), the same as JSON (/api/v1/status) and for Prometheus (/metrics), and
/healthz and /readyz.

Exit status: 0 ended by a signal, 1 a problem of this machine, 2 wrong usage (or a
crash: Go has no other), 78 bad or missing rules at the start, which no restart
cures.`,
		Example: "  sockdog run\n  sockdog run --rules /etc/sockdog/rules.yaml --state-dir /var/lib/sockdog",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.onBadRules != "exit" && f.onBadRules != "observe" {
				return usage{fmt.Errorf("--on-bad-rules is exit or observe, not %q", f.onBadRules)}
			}
			if f.Rules == "-" {
				return usage{errors.New("run reads its rules again whenever they change, and so takes no standard input: write them to a file")}
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
	cmd.Flags().StringVar(&f.Rules, "rules", "", "`file` of rules; without it the built-in ones only watch")
	cmd.Flags().StringVar(&f.onBadRules, "on-bad-rules", "exit", "`what` to do when the rules are bad or missing at the start: exit, or observe")
	cmd.Flags().StringVar(&f.StateDir, "state-dir", stateDirectory(), "`directory` for the journal and for what must outlive a restart; default: systemd's $STATE_DIRECTORY")
	cmd.Flags().StringVar(&f.Listen, "listen", client.DefaultAddress, "`address` for the page, the metrics and the status; off: none")
	cmd.Flags().StringSliceVar(&f.ListenNames, "listen-name", nil, "`name` that requests may be sent to, beside addresses, localhost and this host's; may be given again")
	cmd.Flags().StringVar(&f.logFormat, "log-format", "auto", "`format`: auto (text on a terminal and in systemd's journal, else JSON), text or json")
	cmd.Flags().StringVar(&f.logLevel, "log-level", "info", "`level`: info, or debug, which tells how sockets are matched, too")
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
