package notify

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/alert"
	"github.com/sockdog/sockdog/rules"
)

// webhook sends messages for people: about each rule when it begins to fire, when
// other alerts of it fire, at most each minute, when it has ended, and every four
// hours while nothing changes.
type webhook struct {
	*sender
	groups map[subject]*group
	made   uint64 // messages
}

// subject is what one message is about: a rule, as Alertmanager groups by default, and
// where each has an incident of its own, one of its severities, or what is wrong with the rule
// itself. To an Alertmanager, a message is about all alerts.
type subject struct{ rule, severity, problem string }

func (s *sender) subject(labels map[string]string) subject {
	switch {
	case s.form == rules.Alertmanager:
		return subject{}
	case s.format == rules.FormatPagerDuty:
		return subject{labels["alertname"], labels["severity"], labels[alert.ProblemLabel]}
	}
	return subject{rule: labels["alertname"]}
}

// group is what there is of the alerts of one subject, and what was sent.
type group struct {
	about  subject
	items  []item
	sentAt time.Time
	tried  time.Time
	made   uint64 // the number of the last message about it
	limit  int    // of the alerts in a message
	failed bool   // the last message about it did not get through

	hangUps int // on messages about it, since one got through that was not cut for that
}

// A receiver that hangs up, or answers 5xx, may be away or find the message too
// large. The latter is assumed from the third time in a row on, and not of a small
// message.
const (
	patience = 3
	small    = 16 << 10
)

// notification is the form that Alertmanager's webhooks send, version 4.
type notification struct {
	Version           string            `json:"version"`
	GroupKey          string            `json:"groupKey"`
	TruncatedAlerts   int               `json:"truncatedAlerts"`
	Status            string            `json:"status"`
	Receiver          string            `json:"receiver"`
	GroupLabels       map[string]string `json:"groupLabels"`
	CommonLabels      map[string]string `json:"commonLabels"`
	CommonAnnotations map[string]string `json:"commonAnnotations"`
	ExternalURL       string            `json:"externalURL"`
	Alerts            []notifiedAlert   `json:"alerts"`
}

type notifiedAlert struct {
	Status string `json:"status"`
	alert.Alert
	GeneratorURL string `json:"generatorURL"`
	Fingerprint  string `json:"fingerprint"`
}

func (w *webhook) next(now time.Time, last bool) (*message, time.Time) {
	w.collect(now)
	due := now.Add(w.notifier.pace.repeat)
	// Of those that are due, the one with the oldest message comes first: one that never
	// gets through must not keep the others from being sent.
	var first *group
	for _, g := range w.groups {
		switch when, wanted := w.due(now, g, last); {
		case !wanted || when.After(due):
		case when.After(now):
			due = when
		case first == nil || cmp.Or(cmp.Compare(g.made, first.made), cmp.Compare(g.items[0].seq, first.items[0].seq)) < 0:
			first = g
		}
	}
	if first == nil {
		return nil, due
	}
	return w.message(first), now
}

// collect takes the alerts into their groups, the oldest transitions first.
func (w *webhook) collect(now time.Time) {
	for _, g := range w.groups {
		g.items = nil
	}
	for _, it := range w.receiver.table.between(now, 0, math.MaxUint64, maxAlerts) {
		about := w.subject(it.Labels)
		g := w.groups[about]
		if g == nil {
			g = &group{about: about, limit: maxBatch}
			w.groups[about] = g
		}
		g.items = append(g.items, it)
	}
	maps.DeleteFunc(w.groups, func(_ subject, g *group) bool {
		return g.items == nil && now.Sub(g.tried) >= w.notifier.pace.resend
	})
}

// due returns when a message about a group is to be sent, if one is.
func (w *webhook) due(now time.Time, g *group, last bool) (when time.Time, wanted bool) {
	pace := &w.notifier.pace
	when = g.tried.Add(pace.resend)
	switch {
	case g.items == nil:
		return when, false
	case g.items[len(g.items)-1].seq > w.sent[g.about]:
		if last {
			when = now
		}
		return when, true
	case last || !slices.ContainsFunc(g.items, func(it item) bool { return it.Firing() }):
		return when, false
	}
	if repeat := g.sentAt.Add(pace.repeat); repeat.After(when) {
		when = repeat
	}
	return when, true
}

func (w *webhook) message(g *group) *message {
	w.made++
	g.made = w.made
	upTo := g.items[len(g.items)-1].seq
	n := w.notification(g)
	body, err := inFormat(w.config.Load(), n)
	fewer := len(n.Alerts) // can be sent, where the message is too large
	if w.format != "" && w.format != rules.FormatAlertmanager {
		fewer = 1 // it is as large as the service takes
	}
	return &message{body: body, err: err, alerts: len(n.Alerts), settle: func(now time.Time, err *failure) (smaller bool) {
		if err == nil {
			w.receiver.table.markSent(w.sender, g.about, upTo)
		}
		return g.settle(now, err, fewer, len(body))
	}}
}

func (w *webhook) caughtUp() bool {
	for _, g := range w.groups {
		if g.failed {
			return false
		}
	}
	return true
}

// settle notes the outcome of a message of n alerts and that size. Alerts that a message leaves out are not sent later:
// it is made smaller only for a receiver that refuses a larger one, and not for one
// that is down.
func (g *group) settle(now time.Time, err *failure, n, size int) (smaller bool) {
	g.failed = err != nil
	if err != nil && err.large && !err.final {
		g.hangUps++
	}
	switch {
	case err == nil:
		if g.limit == maxBatch {
			g.hangUps = 0
		}
		g.tried, g.sentAt, g.limit = now, now, min(2*g.limit, maxBatch)
		if g.hangUps > 0 {
			g.limit = maxBatch // it may as well have been away until now
		}
	case err.large && n > 1 && (err.final || g.hangUps >= patience && size > small):
		g.limit = n / 2
		return true
	case err.final:
		g.tried, g.limit = now, maxBatch // its size was not why
	case !err.large:
		g.limit, g.hangUps = maxBatch, 0 // nor here
	}
	return false
}

// notification is about all alerts of a rule that fire, and those that have ended
// since the last one.
func (w *webhook) notification(g *group) *notification {
	name, items := g.about.rule, slices.DeleteFunc(g.items, func(it item) bool { return !it.Firing() && it.seq <= w.sent[g.about] })
	slices.SortStableFunc(items, func(a, b item) int { // what fires comes first, and is not cut off
		switch {
		case a.Firing() && !b.Firing():
			return -1
		case b.Firing() && !a.Firing():
			return 1
		}
		return a.StartsAt.Compare(b.StartsAt)
	})
	n := &notification{
		Version:           "4",
		GroupKey:          fmt.Sprintf("{}:{alertname=%q}", name),
		Status:            status(items[0]),
		Receiver:          w.receiver.name,
		GroupLabels:       map[string]string{"alertname": name},
		CommonLabels:      maps.Clone(items[0].Labels),
		CommonAnnotations: maps.Clone(items[0].Annotations),
		ExternalURL:       w.notifier.Page,
	}
	size := len(encode(n))
	for _, it := range items[:min(len(items), g.limit)] {
		one := notifiedAlert{
			Status:       status(it),
			Alert:        it.Alert,
			GeneratorURL: w.notifier.Page,
			Fingerprint:  fmt.Sprintf("%016x", fingerprint(it.Labels)),
		}
		if size += len(encode(one)); size > maxBody && len(n.Alerts) > 0 {
			break
		}
		keepCommon(n.CommonLabels, it.Labels)
		keepCommon(n.CommonAnnotations, it.Annotations)
		n.Alerts = append(n.Alerts, one)
	}
	n.TruncatedAlerts = len(items) - len(n.Alerts)
	return n
}

const (
	statusFiring   = "firing"
	statusResolved = "resolved"
)

func status(it item) string {
	if it.Firing() {
		return statusFiring
	}
	return statusResolved
}

// keepCommon leaves in common what others says too.
func keepCommon(common, others map[string]string) {
	maps.DeleteFunc(common, func(name, value string) bool {
		other, ok := others[name]
		return !ok || other != value
	})
}
