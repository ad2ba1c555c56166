package action

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/rules"
)

// setSysctl sets settings of a network namespace for as long as a group fires.
var setSysctl = &Kind{Kind: rules.Sysctl, Once: setSettings, Undo: putSettingsBack}

// Sysctls sets settings of network namespaces, by their inodes, for who wants that; 0: the
// own one.
type Sysctls interface {
	Set(netns uint32, name, value, rule, by string) (old string, err error)
	PutBack(netns uint32, name, by string) (found string, err error)
}

// wants tells who wants a setting from others.
func wants(a *engine.GroupAction) string {
	return fmt.Sprintf("%s %q %d", a.Rule, subject.ByName(a.Group), a.Fired)
}

// setSettings sets all settings, or none.
func setSettings(_ context.Context, x *Runner, a *engine.GroupAction) (found string, err error) {
	var said []string
	for i, s := range a.Action.Sysctls {
		old, err := x.Sysctls.Set(a.Netns, s.Name, s.Value, a.Rule, wants(a))
		if err != nil {
			for _, done := range a.Action.Sysctls[:i] {
				_, undo := x.Sysctls.PutBack(a.Netns, done.Name, wants(a))
				err = errors.Join(err, undo)
			}
			return "", err
		}
		said = append(said, fmt.Sprintf("%s is %s, and was %s", s.Name, s.Value, old))
	}
	return strings.Join(said, "; "), nil
}

func putSettingsBack(x *Runner, a *engine.GroupAction) (found string, err error) {
	var said []string
	for _, s := range a.Action.Sysctls {
		text, one := x.Sysctls.PutBack(a.Netns, s.Name, wants(a))
		if err = errors.Join(err, one); one == nil {
			said = append(said, text)
		}
	}
	return strings.Join(said, "; "), err
}
