package service

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sockdog/sockdog/internal/control"
	"github.com/sockdog/sockdog/internal/daemon"
	"github.com/sockdog/sockdog/internal/pause"
	"github.com/sockdog/sockdog/internal/statedir"
)

// controlEnd is how long clients and the disk have to end: whoever told the daemon to stop
// does not wait for what hangs.
const controlEnd = 50 * time.Millisecond

// listenForCommands has all acting paused for as long as the file of the state directory
// says so, or somebody by the control socket. The function that it returns ends that.
// Where there can be no socket, the watch goes on.
func (c *Config) listenForCommands(ctx context.Context, dir *statedir.Dir, log *slog.Logger, o *daemon.Options) (stop func()) {
	pauses, resets := pause.New(dir, log), make(chan daemon.RuleReset)
	ready := new(atomic.Pointer[string])
	o.Paused, o.Pauses, o.Resets, o.Ready = pauses.Present(), pauses.Changes(), resets, func(instead string) { ready.Store(&instead) }
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { pauses.Run(ctx) })
	if c.Control != control.Off {
		stateDir := ""
		if dir != nil && o.StateDir != "" { // else another sockdog uses it
			stateDir = dir.Path()
		}
		left := "a file pauses sockdog (docs/stop.md)"
		if dir == nil {
			left = "without a state directory nothing pauses sockdog (docs/stop.md)"
		}
		listeners, refused := control.Listen(control.Paths(c.Control, stateDir))
		for _, l := range listeners {
			log.Info("listening for commands", "socket", l.Addr().String())
			running.Go(func() {
				if err := control.Serve(ctx, l, commands{pauses, resets, ready}); err != nil {
					log.Error("listening for commands ended; "+left, "socket", l.Addr().String(), "error", err.Error())
				}
			})
		}
		switch {
		case refused == nil:
		case len(listeners) > 0:
			log.Debug("a control socket cannot be had; there is another", "reason", refused.Error())
		case c.Control != "":
			log.Warn("there is no control socket; "+left, "error", refused.Error())
		default:
			log.Info("there is no control socket; "+left, "reason", refused.Error())
		}
	}
	return func() {
		cancel()
		ended := make(chan struct{})
		go func() { running.Wait(); close(ended) }()
		select {
		case <-ended:
		case <-time.After(controlEnd):
		}
	}
}

// commands are what the control socket has done: by who keeps a pause, and by the daemon.
type commands struct {
	*pause.Store
	resets chan<- daemon.RuleReset
	ready  *atomic.Pointer[string] // nil: it is not; else as daemon.ServiceManager has it
}

// Ready implements control.Handler.
func (c commands) Ready() (ready bool, instead string) {
	if instead := c.ready.Load(); instead != nil {
		return true, *instead
	}
	return false, ""
}

// Reset implements control.Handler.
func (c commands) Reset(ctx context.Context, rule, by string) (was bool, err error) {
	done := make(chan daemon.RuleResetDone, 1)
	select {
	case c.resets <- daemon.RuleReset{Rule: rule, By: by, Done: done}:
	case <-ctx.Done():
		return false, errBusy
	}
	select {
	case d := <-done:
		if d.Rules != nil {
			return false, &control.UnknownRule{Name: rule, Rules: d.Rules}
		}
		return d.Was, nil
	case <-ctx.Done():
		return false, errBusy
	}
}

var errBusy = errors.New("the daemon is busy: try again in a moment")
