package daemon

import (
	"cmp"
	"fmt"
	"log/slog"

	"github.com/sockdog/sockdog/rules"
)

// whatWatches says what is in force once the daemon watches.
func (d *watch) whatWatches() []slog.Attr {
	file := d.board.file.Path
	if d.board.file.BuiltIn {
		file = "built in"
	}
	attrs := []slog.Attr{slog.Int("rules", len(d.set.Rules)), slog.String("file", file)}
	attrs = append(attrs, dryRun(d.set)...)
	attrs = append(attrs, slog.Bool("kill_possible", d.Capabilities.Kill == ""))
	return append(attrs, slog.String("state_dir", cmp.Or(d.StateDir, "none")))
}

// changes says what a reload has changed, by name: what a rule does, and not how it
// is written.
func (d *watch) changes(before *rules.Set) []slog.Attr {
	was := make(map[string]string, len(before.Rules))
	for _, r := range before.Rules {
		was[r.Name] = r.Sum
	}
	var added, changed, removed []string
	for _, r := range d.set.Rules {
		switch sum, is := was[r.Name]; {
		case !is:
			added = append(added, r.Name)
		case sum != r.Sum:
			changed = append(changed, r.Name)
		}
		delete(was, r.Name)
	}
	for _, r := range before.Rules {
		if _, left := was[r.Name]; left {
			removed = append(removed, r.Name)
		}
	}
	attrs := []slog.Attr{slog.Int("rules", len(d.set.Rules))}
	attrs = append(attrs, names("added", added)...)
	attrs = append(attrs, names("removed", removed)...)
	attrs = append(attrs, names("changed", changed)...)
	return append(attrs, dryRun(d.set)...)
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
