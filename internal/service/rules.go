package service

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/sockdog/sockdog/internal/action"
	"github.com/sockdog/sockdog/internal/daemon"
	"github.com/sockdog/sockdog/internal/reload"
	"github.com/sockdog/sockdog/internal/status"
	"github.com/sockdog/sockdog/rules"
)

// BadRules is why the daemon does not start: its rules are bad, or missing.
type BadRules struct{ Err error }

func (b BadRules) Error() string { return b.Err.Error() }
func (b BadRules) Unwrap() error { return b.Err }

// loaded is what came of the first reading of the rules.
type loaded struct {
	set     *rules.Set // nil: told to stop before it began
	file    status.RulesFile
	changes <-chan daemon.Reload
}

// load reads the rules for the first time, and has them read again whenever they
// change.
func (c *Config) load(ctx context.Context, log *slog.Logger, hangUp <-chan os.Signal) (loaded, error) {
	if c.Rules == "" {
		log.Info("no --rules: the built-in rules watch and report, and touch nothing")
		go func() {
			for range hangUp {
				log.Info("SIGHUP ignored: there is no rules file")
			}
		}()
		return loaded{set: rules.Default(), file: status.RulesFile{BuiltIn: true}}, nil
	}
	watcher := reload.New(c.Rules, func(err error) { log.Warn(err.Error()) })
	go watcher.Run(ctx)
	var first reload.File
	select {
	case first = <-watcher.Files():
	case <-ctx.Done():
		return loaded{}, nil
	}
	exposed := c.warnExposed(log, "")
	set, err := c.parse(first)
	now := status.RulesFile{Path: c.Rules}
	switch {
	case err == nil:
	case c.Observe:
		set, now.BuiltIn, now.Error = rules.Default(), true, daemon.Mistakes(c.Rules, err)
		log.Error("YOUR RULES ARE NOT IN FORCE: the built-in ones watch and touch nothing until the file is mended", "file", c.Rules, "error", now.Error)
	default:
		return loaded{}, BadRules{err}
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
				set, err := c.parse(file)
				change := daemon.Reload{Rules: set, Err: err, Again: err == nil && last.Err == nil && bytes.Equal(file.Data, last.Data)}
				last = file
				exposed = c.warnExposed(log, exposed)
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

// warnExposed warns of a rules file that others can change, unless that was said
// before, and returns what is to say of it.
func (c *Config) warnExposed(log *slog.Logger, said string) string {
	exposed, cure := reload.Exposed(c.Rules)
	if exposed != "" && exposed != said {
		log.Warn("others can change the rules, and with them what is killed", "file", c.Rules, "why", exposed, "cure", cure)
	}
	return exposed
}

// Trust says why a set of rules from a file is not to be used: whoever may write that file
// would do, as sockdog's user, what goes beyond sockets.
func Trust(set *rules.Set, file string) error {
	for _, r := range set.Rules {
		for _, a := range r.Then {
			if !a.Kind.Explicit {
				continue
			}
			if exposed, cure := reload.Exposed(file); exposed != "" {
				return fmt.Errorf("%s: the rule %q does %s, so nobody else may be able to change this file, and %s: %s", file, r.Name, a.Kind, exposed, cure)
			}
			return nil
		}
	}
	return nil
}

// parse reads a set of rules; an error names the file.
func (c *Config) parse(file reload.File) (*rules.Set, error) {
	if file.Err != nil {
		return nil, file.Err
	}
	set, err := rules.ParseAllowed(bytes.NewReader(file.Data), c.Allow, action.InRules(action.Kinds())...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Rules, err)
	}
	if err := Trust(set, c.Rules); err != nil {
		return nil, err
	}
	return set, nil
}
