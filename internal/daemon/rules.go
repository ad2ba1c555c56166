package daemon

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"slices"

	"github.com/sockdog/sockdog/internal/action"
	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/rules"
)

// inForce are the rules in force.
type inForce struct {
	set     *rules.Set
	enabled bool // one of them is
	warned  bool // that an action is not possible
	forgets bool // it is said that nothing remembers what settings were
}

// rule puts a checked set of rules in force; fallback: in the place of those of a
// file that could not be read.
func (d *watch) rule(set *rules.Set, fallback bool) {
	within := *set
	if d.StatusStore != nil {
		within.Settings.CPUBudget *= 1 - stateCountShare
	}
	d.rulesChanged.Store(int64(d.Now()))
	// What ends with the old rules is told to their receivers.
	program := match.Compile(&within)
	if d.readers.Want != nil {
		d.readers.Want(program.Queries[match.AllClasses].States)
	}
	if d.AskCmdlines != nil {
		if err := d.AskCmdlines(program.Cmdlines); err != nil { // the rules were checked
			d.log.say(slog.LevelError, "command lines cannot be compared", slog.String("error", err.Error()))
		}
	}
	d.wantsFDs.Store(program.NeedsFDs && d.ReadDescriptors != nil)
	d.drive(engine.RulesChanged{Program: program, Fallback: fallback})
	d.publisher.publish(update{rules: set})
	d.shown.rule(set)
	d.shown.states.seen = nil // scans are for other rules from now on
	f := &d.rules
	f.set = set
	f.enabled = slices.ContainsFunc(set.Rules, func(r rules.Rule) bool { return r.Enabled })
	if !f.enabled {
		d.beReady() // there will be no scan
	}
	if d.StateDir == "" && f.do(rules.Sysctl) && !f.forgets {
		f.forgets = true
		d.log.say(slog.LevelWarn, "sysctls that rules set would stay so after a crash", slog.String("cure", "--state-dir remembers what they were"))
	}
	d.tellAccess()
	for _, k := range d.Kinds {
		if missing, why := f.cannot(k.Kind, d.Capabilities); why != nil && !f.warned {
			f.warned = true
			d.log.say(slog.LevelError, "the action is not possible; sockdog watches and reports",
				slog.String("action", k.Name), slog.String("reason", action.Missing(k.Kind, why)), slog.String("cure", d.Cures[missing]))
		}
	}
}

// cannot says why an action of the kind that a rule does cannot be done, and what is missing
// for it; nil: all can.
func (f *inForce) cannot(kind *rules.Kind, c match.Capabilities) (missing rules.Capability, why error) {
	for a := range f.actions() {
		if via, why := c.Way(a); a.Kind == kind && why != nil {
			return match.Needs(kind, via), why
		}
	}
	return "", nil
}

// do reports whether any of the rules does an action of the kind.
func (f *inForce) do(kind *rules.Kind) bool {
	for a := range f.actions() {
		if a.Kind == kind {
			return true
		}
	}
	return false
}

// actions are those that any of the rules does.
func (f *inForce) actions() iter.Seq[*rules.Action] {
	return func(yield func(*rules.Action) bool) {
		for i := range f.set.Rules {
			r := &f.set.Rules[i]
			for j := range r.Then {
				if r.Enabled && !r.DryRun && !yield(&r.Then[j]) {
					return
				}
			}
		}
	}
}

// reload puts new rules in force, or keeps the old ones and says why.
func (d *watch) reload(r Reload) {
	d.reloading()
	if r.Err == nil && r.Rules.Settings.Namespaces != d.Rules.Settings.Namespaces {
		r.Err = errNamespaces
	}
	was := d.shown.file.Error
	d.shown.loaded(r.Err, r.Again)
	switch {
	case r.Err != nil && d.shown.file.Error == was: // somebody has asked for that, and hears it shorter
		d.log.say(slog.LevelWarn, "rules read again; they are still not in force", slog.String("cure", rulesCure(r.Err)))
	case r.Err != nil:
		d.log.say(slog.LevelError, "rules not reloaded; those in force stay in force", slog.String("error", d.shown.file.Error), slog.String("cure", rulesCure(r.Err)))
	case r.Again:
		d.log.say(slog.LevelInfo, "rules read again; nothing has changed")
	default:
		before := d.rules.set
		d.rule(r.Rules, false)
		d.log.say(slog.LevelInfo, "rules reloaded", d.changes(before)...)
	}
	if d.service.ready {
		d.tellReady()
	}
	d.publish() // who has just edited the file looks now
}

// errNamespaces keeps rules from being in force: they would be about other sockets than
// the source has.
var errNamespaces = errors.New("settings.namespaces is read at the start; restart sockdog")

// rulesCure says what to do about rules that are not in force.
func rulesCure(err error) string {
	if errors.Is(err, errNamespaces) {
		return "systemctl restart sockdog, or restart its container"
	}
	return "sockdog check shows the mistakes"
}

// whatWatches says what is in force once the daemon watches.
func (d *watch) whatWatches() []slog.Attr {
	file := d.shown.file.Path
	if d.shown.file.BuiltIn {
		file = "built in"
	}
	attrs := []slog.Attr{slog.Int("rules", len(d.rules.set.Rules)), slog.String("file", file)}
	attrs = append(attrs, dryRun(d.rules.set)...)
	attrs = append(attrs, slog.Bool("kill_possible", d.Capabilities.CannotAny(rules.Kill) == nil))
	return append(attrs, slog.String("state_dir", cmp.Or(d.StateDir, "none")))
}

// changes says what a reload has changed, by name: what a rule does, and not how it
// is written.
func (d *watch) changes(before *rules.Set) []slog.Attr {
	was := make(map[string]string, len(before.Rules))
	for _, r := range before.Rules {
		was[r.Name] = r.Sum
	}
	var added, changed []string
	for _, r := range d.rules.set.Rules {
		switch sum, is := was[r.Name]; {
		case !is:
			added = append(added, r.Name)
		case sum != r.Sum:
			changed = append(changed, r.Name)
		}
		delete(was, r.Name)
	}
	removed := slices.Sorted(maps.Keys(was))
	attrs := []slog.Attr{slog.Int("rules", len(d.rules.set.Rules))}
	attrs = append(attrs, names("added", added)...)
	attrs = append(attrs, names("removed", removed)...)
	attrs = append(attrs, names("changed", changed)...)
	return append(attrs, dryRun(d.rules.set)...)
}

// dryRun names the rules that touch nothing, "all" where those are all.
func dryRun(set *rules.Set) []slog.Attr {
	var dry []string
	enabled := 0
	for _, r := range set.Rules {
		if !r.Enabled {
			continue
		}
		if enabled++; r.DryRun {
			dry = append(dry, r.Name)
		}
	}
	if len(dry) > 0 && len(dry) == enabled {
		dry = []string{"all"}
	}
	return names("dry_run_rules", dry)
}

// namesSize is how many bytes of names there are in one attribute.
const namesSize = 300

// names lists names, as many as there is room for; of none there is no attribute.
func names(key string, all []string) []slog.Attr {
	if len(all) == 0 {
		return nil
	}
	text := all[0]
	for i, name := range all[1:] {
		if len(text)+len(name) > namesSize {
			text += fmt.Sprintf(" and %d more", len(all)-1-i)
			break
		}
		text += ", " + name
	}
	return []slog.Attr{slog.String(key, text)}
}

// number says how many there are of something.
func number(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
