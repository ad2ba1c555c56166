package rules

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Text is what the rule says in one line: which sockets, for how long, and what is
// done, such as "close-wait, dport = 5432, in_state_for 5m: kill".
func (r *Rule) Text() string {
	var text string
	if len(r.Match) > 0 {
		text = anyMatch(r.Match)
	}
	if len(r.Exclude) > 0 {
		text += "; not " + anyMatch(r.Exclude)
	}
	if len(r.When) > 0 {
		if text != "" {
			text += "; "
		}
		text += "when " + join(r.When, " and ", Condition.String)
		if len(r.GroupBy) > 0 {
			text += " by " + join(r.GroupBy, ", ", func(k GroupKey) string { return string(k) })
		}
		if r.For > 0 {
			text += " for " + plain(r.For)
		}
	}
	text += ": " + join(r.Then, ", ", Action.text)
	if r.Cooldown > 0 {
		text += "; cooldown " + plain(r.Cooldown)
	}
	return text
}

func (a Action) text() string {
	text := a.Kind.Name
	if a.Exec != nil {
		text += " " + a.Exec.Command[0]
	}
	if a.Signal != nil {
		text += " " + a.Signal.Signal
	}
	if len(a.Sysctls) > 0 {
		text += " " + join(a.Sysctls, " ", Setting.String)
	}
	for _, o := range a.Kind.Options {
		switch value := a.Options[o.Name].(type) {
		case nil:
		case time.Duration:
			text += " " + o.Name + " " + plain(value)
		default:
			text += fmt.Sprintf(" %s %v", o.Name, value)
		}
	}
	if a.After > 0 {
		text += " after " + plain(a.After)
	}
	return text
}

func anyMatch(all []Match) string {
	return join(all, " or ", func(m Match) string {
		if len(all) > 1 {
			return "(" + m.text() + ")"
		}
		return m.text()
	})
}

func (m Match) text() string {
	var words []string
	switch m.States {
	case ssfilter.AllStates, ssfilter.AllStates &^ (1 << ssfilter.Listening):
	default:
		words = append(words, m.States.String())
	}
	if m.Where != nil {
		words = append(words, m.Where.String())
	}
	if len(m.Users) > 0 {
		words = append(words, "user "+join(m.Users, ",", func(id uint32) string { return strconv.FormatUint(uint64(id), 10) }))
	}
	if len(m.Netns) > 0 {
		words = append(words, "netns "+join(m.Netns, ",", Netns.String))
	}
	if len(m.Cgroups) > 0 {
		words = append(words, "cgroup "+strings.Join(m.Cgroups, ","))
	}
	for _, key := range m.OfHolders() {
		words = append(words, key.Name+" "+strings.Join(key.Values, ","))
	}
	if m.Unread != nil {
		words = append(words, fmt.Sprintf("unread %s %d", m.Unread.Op, m.Unread.Number))
	}
	if m.InBacklog != nil {
		words = append(words, fmt.Sprint("in_backlog ", *m.InBacklog))
	}
	if m.Keepalive != nil {
		words = append(words, fmt.Sprint("keepalive ", *m.Keepalive))
	}
	if len(m.Verdicts) > 0 {
		words = append(words, "verdict "+join(m.Verdicts, ",", func(v Verdict) string { return string(v) }))
	}
	for _, bound := range []struct {
		key string
		d   time.Duration
	}{{"in_state_for", m.InStateFor}, {"idle_for", m.IdleFor}, {"stalled_for", m.StalledFor}, {"silent_for", m.SilentFor}} {
		if bound.d > 0 {
			words = append(words, bound.key+" "+plain(bound.d))
		}
	}
	if len(words) == 0 {
		return "all sockets"
	}
	return strings.Join(words, ", ")
}

func join[T any](all []T, between string, text func(T) string) string {
	words := make([]string, len(all))
	for i, x := range all {
		words[i] = text(x)
	}
	return strings.Join(words, between)
}

// plain is a duration as one writes it: 5m, not 5m0s.
func plain(d time.Duration) string {
	text := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, zero) {
			text = text[:len(text)-2]
		}
	}
	return text
}
