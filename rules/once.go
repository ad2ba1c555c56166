package rules

import (
	"time"

	"github.com/sockdog/sockdog/rules/internal/document"
)

const (
	// defaultCooldown is how long a rule that names none leaves a group alone after it acted
	// on it, so that one which ends and fires again and again does not act each time.
	defaultCooldown = 5 * time.Minute
	// mostOnce is how many actions on groups a rule may have: what was done of them for a
	// group is remembered in a bit each.
	mostOnce = 16
)

// after is the option that makes an action an escalation.
var after = document.Field("after", duration, func(a *act) *time.Duration { return &a.After })

// lacks reports whether an option is missing. Of options that could not be read as a whole
// nothing is known.
func (a *act) lacks(option string) bool {
	return !a.given.Has(option) && (a.options == nil || a.given != nil)
}

// checkOnce holds a rule to what its actions on groups demand of it, and fills in their
// defaults.
func checkOnce(r *document.Reader, d *draft) {
	n, grouped := 0, d.given.Has("when")
	readable := d.given.Has("then") == d.given.Wrote("then")
	for i := range d.then {
		a := &d.then[i]
		if a.Kind == nil || !a.Kind.OncePerFiring() {
			readable = readable && a.Kind != nil
			continue
		}
		if !grouped {
			r.Report(a.at, "%s is done once each time that a group fires: it needs when, a condition on a group of sockets", a.Kind)
		}
		if n++; n == mostOnce+1 {
			r.Report(a.at, "this is one action on groups too many: a rule has up to %d", mostOnce)
		}
		switch a.Kind {
		case Exec:
			checkExec(r, a)
		case Signal:
			checkSignal(r, d, a)
		case Sysctl:
			checkSysctl(r, a)
		}
	}
	at := d.given["cooldown"]
	switch {
	case n == 0 && d.given.Wrote("cooldown") && !grouped:
		r.Report(at, "cooldown needs when: without it the rule is about single sockets, each of which is acted on once")
	case n == 0 && d.given.Wrote("cooldown") && readable:
		r.Report(at, "cooldown is about actions that are done once each time that a group fires, such as exec: this rule has none")
	case n > 0 && at == nil:
		d.Cooldown = defaultCooldown
	}
}
