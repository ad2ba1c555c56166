package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/sockdog/sockdog/internal/action"
	"github.com/sockdog/sockdog/internal/daemon"
	"github.com/sockdog/sockdog/internal/reload"
	"github.com/sockdog/sockdog/internal/status"
	"github.com/sockdog/sockdog/internal/term"
	"github.com/sockdog/sockdog/rules"
)

type runFlags struct {
	rules, onBadRules, stateDir, logFormat, logLevel string
	listen                                           string
	listenNames                                      []string
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
			if f.rules == "-" {
				return usage{errors.New("run reads its rules again whenever they change, and so takes no standard input: write them to a file")}
			}
			if err := checkListen(f.listen); err != nil {
				return usage{err}
			}
			if err := checkListenNames(f.listenNames); err != nil {
				return usage{err}
			}
			form, err := logForm(cmd.ErrOrStderr(), f.logFormat)
			if err != nil {
				return usage{err}
			}
			log, err := newLog(cmd.ErrOrStderr(), form, f.logLevel)
			if err != nil {
				return usage{err}
			}
			if err := watch(cmd.Context(), log, f); err != nil {
				return f.tell(err, form, log, cmd.ErrOrStderr())
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&f.rules, "rules", "", "`file` of rules; without it the built-in ones only watch")
	cmd.Flags().StringVar(&f.onBadRules, "on-bad-rules", "exit", "`what` to do when the rules are bad or missing at the start: exit, or observe")
	cmd.Flags().StringVar(&f.stateDir, "state-dir", stateDirectory(), "`directory` for the journal and for what must outlive a restart; default: systemd's $STATE_DIRECTORY")
	cmd.Flags().StringVar(&f.listen, "listen", defaultListen, "`address` for the page, the metrics and the status; off: none")
	cmd.Flags().StringSliceVar(&f.listenNames, "listen-name", nil, "`name` that requests may be sent to, beside addresses, localhost and this host's; may be given again")
	cmd.Flags().StringVar(&f.logFormat, "log-format", "auto", "`format`: auto (text on a terminal and in systemd's journal, else JSON), text or json")
	cmd.Flags().StringVar(&f.logLevel, "log-level", "info", "`level`: info, or debug, which tells how sockets are matched, too")
	return cmd
}

// stateDirectory is systemd's, the first where the unit names several.
func stateDirectory() string {
	dir, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":")
	return dir
}

// watch runs the daemon until a signal ends it.
func watch(ctx context.Context, log *slog.Logger, f runFlags) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	hangUp := make(chan os.Signal, 1)
	signal.Notify(hangUp, syscall.SIGHUP) // whose default is to end the process
	// Who reads the log may go away: then a write fails, and does not end the process.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	log.Info("starting", "version", version(), "pid", os.Getpid())

	host, err := openHost()
	if err != nil {
		return problem(err)
	}
	options := host.options(log)
	options.Version = version()
	if options.Host, err = os.Hostname(); err != nil {
		return problem(err)
	}
	loaded, err := f.load(ctx, log, hangUp)
	if err != nil || loaded.set == nil {
		return err
	}
	options.Rules, options.Reload, options.File = loaded.set, loaded.changes, loaded.file
	if f.stateDir != "" {
		state := openState(f.stateDir, host, log)
		defer state.close()
		state.use(&options)
		if options.Journal != nil || options.Store != nil {
			options.StateDir = f.stateDir
		}
	}
	options.Notify = func(state string) { sd.SdNotify(false, state) }
	if options.WatchdogEvery, err = sd.SdWatchdogEnabled(false); err != nil {
		log.Warn("systemd's watchdog is not fed", "error", err.Error())
	}
	defer f.serve(ctx, &options)()
	if err := dropPrivileges(); err != nil { // once all is open that needs more of them
		log.Warn("sockdog goes on with all the capabilities that it was given", "error", err.Error())
	}
	if err := daemon.Run(ctx, options); err != nil {
		return problem(err)
	}
	return nil
}

// loaded is what came of the first reading of the rules.
type loaded struct {
	set     *rules.Set // nil: told to stop before it began
	file    status.RulesFile
	changes <-chan daemon.Reload
}

// load reads the rules for the first time, and has them read again whenever they
// change.
func (f *runFlags) load(ctx context.Context, log *slog.Logger, hangUp <-chan os.Signal) (loaded, error) {
	if f.rules == "" {
		log.Info("no --rules: the built-in rules watch and report, and touch nothing")
		go func() {
			for range hangUp {
				log.Info("SIGHUP: there is no rules file to read again")
			}
		}()
		return loaded{set: rules.Default(), file: status.RulesFile{BuiltIn: true}}, nil
	}
	watcher := reload.New(f.rules, func(err error) { log.Warn(err.Error()) })
	go watcher.Run(ctx)
	var first reload.File
	select {
	case first = <-watcher.Files():
	case <-ctx.Done():
		return loaded{}, nil
	}
	exposed := f.warnExposed(log, "")
	set, err := f.parse(first)
	now := status.RulesFile{Path: f.rules}
	switch {
	case err == nil:
	case f.onBadRules == "observe":
		set, now.BuiltIn, now.Error = rules.Default(), true, daemon.Mistakes(f.rules, err)
		log.Error("YOUR RULES ARE NOT IN FORCE: the built-in ones watch and touch nothing until the file is mended", "file", f.rules, "error", now.Error)
	default:
		return loaded{}, badRules{err}
	}
	changes := make(chan daemon.Reload)
	go func() {
		last := first
		for {
			select {
			case <-ctx.Done():
				return
			case <-hangUp:
				watcher.Poke()
			case file := <-watcher.Files():
				change := daemon.Reload{Again: file.Err == nil && last.Err == nil && bytes.Equal(file.Data, last.Data)}
				if change.Rules, change.Err = f.parse(file); change.Err != nil {
					change.Again = false
				}
				last = file
				exposed = f.warnExposed(log, exposed)
				select {
				case changes <- change:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return loaded{set, now, changes}, nil
}

// tell says why the daemon does not start: to people with an excerpt of each
// mistake, and to what reads logs in one record.
func (f *runFlags) tell(err error, form string, log *slog.Logger, out io.Writer) error {
	const (
		noRules = "sockdog does not start without good rules"
		cure    = "--on-bad-rules observe starts it all the same, and touches nothing"
	)
	var problems rules.Problems
	bad := errors.As(err, new(badRules))
	switch {
	case bad && form != logText:
		log.Error(noRules, "file", f.rules, "error", daemon.Mistakes(f.rules, err), "cure", cure)
		return badRules{errors.New("")}
	case form != logText:
		log.Error("sockdog does not start", "error", err.Error())
		return found{}
	case errors.As(err, &problems):
		fmt.Fprint(out, problems.Report(f.rules))
		return badRules{fmt.Errorf("%s: %s; %s (%s)", f.rules, term.Count(problems.Count(), "problem"), noRules, cure)}
	case bad:
		return badRules{fmt.Errorf("%w; %s (%s)", err, noRules, cure)}
	default:
		return err
	}
}

// warnExposed warns of a rules file that others can change, unless that was said
// before, and returns what is to say of it.
func (f *runFlags) warnExposed(log *slog.Logger, said string) string {
	exposed := reload.Exposed(f.rules)
	if exposed != "" && exposed != said {
		log.Warn("others can change the rules, and with them what is killed", "file", f.rules, "why", exposed, "cure", exposedCure)
	}
	return exposed
}

// exposedCure is what to do about a rules file that others can change.
const exposedCure = "chown it to root and chmod go-w"

// parse reads a set of rules; an error names the file.
func (f *runFlags) parse(file reload.File) (*rules.Set, error) {
	if file.Err != nil {
		return nil, file.Err
	}
	set, err := rules.Parse(bytes.NewReader(file.Data), action.InRules(action.Kinds())...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.rules, err)
	}
	return set, nil
}
