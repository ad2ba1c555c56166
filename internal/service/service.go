// Package service runs the daemon as a service: it opens the log, the rules, the state
// directory and the listener, and ends them. What is watched and done is the daemon's.
package service

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"syscall"

	sd "github.com/coreos/go-systemd/v22/daemon"

	"github.com/sockdog/sockdog/internal/action"
	"github.com/sockdog/sockdog/internal/daemon"
	"github.com/sockdog/sockdog/internal/host"
	"github.com/sockdog/sockdog/internal/probe"
	"github.com/sockdog/sockdog/internal/source/node"
	"github.com/sockdog/sockdog/internal/state"
	"github.com/sockdog/sockdog/internal/statedir"
	"github.com/sockdog/sockdog/rules"
)

// Config is what the flags of sockdog run say.
type Config struct {
	Rules       string   // file; empty: the built-in rules
	Allow       []string // the actions that it may name
	Observe     bool     // bad rules at the start do not end it
	Source      string   // auto, sock_diag or events
	StateDir    string   // empty: none
	Listen      string   // address, or off
	ListenNames []string
	Control     string // path of the control socket, or off; empty: the first default that can be had
	Version     string
}

// Run runs the daemon until a signal ends it.
func Run(ctx context.Context, log *slog.Logger, c Config) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	hangUp := make(chan os.Signal, 1)
	signal.Notify(hangUp, syscall.SIGHUP) // whose default is to end the process
	// Who reads the log may go away: then a write fails, and does not end the process.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	log.Info("starting", "version", c.Version, "pid", os.Getpid())

	reserveThreads()
	h, err := host.Probe()
	if err != nil {
		return err
	}
	loaded, err := c.load(ctx, log, hangUp)
	if err != nil || loaded.set == nil {
		return err
	}
	options := optionsOf(h, log)
	options.Version = c.Version
	if options.Host, err = os.Hostname(); err != nil {
		return err
	}
	source, err := watchNamespaces(h, node.Kind(c.Source), loaded.set.Settings.Namespaces == rules.AllNamespaces, &options)
	if err != nil {
		return err
	}
	defer source.Close()
	options.Rules, options.Reload, options.File = loaded.set, loaded.changes, loaded.file
	var stateDir *statedir.Dir
	var kept *state.State
	if c.StateDir != "" {
		kept = state.Open(c.StateDir, h, log)
		defer kept.Close()
		c.use(kept, &options)
		stateDir = kept.Dir
	}
	keepSysctls(h, source, kept, log, &options)
	defer c.listenForCommands(ctx, stateDir, log, &options)()
	options.Notify = func(state string) { sd.SdNotify(false, state) }
	if options.WatchdogEvery, err = sd.SdWatchdogEnabled(false); err != nil {
		log.Warn("the systemd watchdog is not fed", "error", err.Error())
	}
	defer c.serve(ctx, h, &options)()
	duties := host.Duties{
		EntersNamespaces: loaded.set.Settings.Namespaces == rules.AllNamespaces, CallsBPF: source.NeedsCapBPF(),
		Signals: slices.Contains(c.Allow, rules.Signal.Name), // a rule that does may come with the next reload
	}
	if err := host.DropPrivileges(duties); err != nil { // once all is open that needs more of them
		log.Warn("capabilities cannot be dropped; sockdog keeps all of them", "error", err.Error())
	}
	return daemon.Run(ctx, options)
}

// optionsOf connects the daemon with the host.
func optionsOf(h *host.Host, log *slog.Logger) daemon.Options {
	return daemon.Options{
		Log: log, Now: h.Now, Precision: h.Precision,
		Kinds:        action.Kinds(),
		FetchProbe:   probe.New(probe.Timeout).Fetch,
		Capabilities: h.Capabilities(), Cures: h.Cures(), Descriptors: host.Descriptors(), MaxTracks: host.BoundMemory(),
	}
}

// use has the daemon keep its state.
func (c *Config) use(kept *state.State, o *daemon.Options) {
	// A nil pointer in an interface would not be nil.
	if kept.Journal != nil {
		o.Journal, o.StateDir = kept.Journal, c.StateDir
	}
	if kept.Store != nil {
		o.Store, o.StateDir = kept.Store, c.StateDir
	}
	o.Restored = kept.Restored
	if kept.Problem != nil {
		o.Problems = o.Problems.With(*kept.Problem)
	}
}
