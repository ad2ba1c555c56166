package action

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sock"
)

// Runner does actions on groups. Any of them may hang, so each is done on a goroutine of its
// own. It is for concurrent use.
type Runner struct {
	Kinds []*Kind
	Now   func() sock.Instant
	// Event tells a program of the group: as one line of JSON, and in variables of its
	// environment.
	Event func(a *engine.GroupAction) (text []byte, environment []string)
	// Recheck looks once more at the process that a group is of, and says why it must not be
	// acted on any more, or "".
	Recheck   func(a *engine.GroupAction) (match.Reason, error)
	Sysctls   Sysctls
	ProcRoot  string      // where processes are found
	Contained func() bool // this is a PID namespace of its own, whose process 1 is not the host's
}

// changed is an error: nothing was done, for what was found right before is not what was
// decided on.
type changed match.Reason

func (c changed) Error() string { return words[match.Reason(c)] }

// Run does an action on a group, until ctx is done: the watchdog ends.
func (x *Runner) Run(ctx context.Context, a *engine.GroupAction) engine.GroupActed {
	done := engine.GroupActed{Act: *a}
	i := slices.IndexFunc(x.Kinds, func(k *Kind) bool { return k.Kind == a.Kind() })
	if i < 0 {
		done.Err = fmt.Errorf("nothing here does %s", a.Kind())
	} else {
		done.Found, done.Err = x.Kinds[i].Once(ctx, x, a)
	}
	done.At = x.Now()
	if why := changed(""); errors.As(done.Err, &why) {
		done.Changed, done.Err = match.Reason(why), nil
	}
	done.Gone = errors.Is(done.Err, sock.ErrGone)
	return done
}

// Undo puts back what an action on a group has done.
func (x *Runner) Undo(a *engine.GroupAction) engine.GroupUndone {
	done := engine.GroupUndone{Act: *a}
	for _, k := range x.Kinds {
		if k.Kind == a.Kind() && k.Undo != nil {
			done.Found, done.Err = k.Undo(x, a)
		}
	}
	done.At = x.Now()
	return done
}
