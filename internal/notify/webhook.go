package notify

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/sockdog/sockdog/rules"
)

// webhook tells people: of each rule when it begins to fire, when what fires has
// changed, but not more often than each minute, when it has ended, and while
// nothing changes every four hours.
type webhook struct {
	table    *table
	pace     pace
	page     string
	sender   *sender
	receiver string
	format   rules.Format
	groups   map[subject]*group
	turns    uint64 // how many messages were made
}

// subject is what one message is about: a rule, as Alertmanager groups by default, and
// where a severity has an incident of its own, one of its severities.
type subject struct{ rule, severity string }

func (w *webhook) subject(labels map[string]string) subject {
	s := subject{rule: labels["alertname"]}
	if w.format == rules.FormatPagerDuty {
		s.severity = labels["severity"]
	}
	return s
}

// group is what was told about the alerts of one subject.
type group struct {
	told  uint64 // its news up to this number
	at    time.Time
	tried time.Time
	turn  uint64 // when a message about it was made last
	limit int    // of the alerts in a message
	ails  bool   // the last message about it did not get through

	hangUps int // on messages about it, since one got through that was not cut for that
}

// A receiver that hangs up, or answers 5xx, may be away or find the message too
// large. That is thought from the third time in a row on, and of no small message.
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
	Status       string            `json:"status"`
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations"`
	StartsAt     time.Time         `json:"startsAt"`
	EndsAt       time.Time         `json:"endsAt"` // zero while it fires
	GeneratorURL string            `json:"generatorURL"`
	Fingerprint  string            `json:"fingerprint"`
}

func (w *webhook) next(now time.Time, last bool) (*message, time.Time) {
	var subjects []subject // those with the oldest news first
	alerts := make(map[subject][]item)
	for _, it := range w.table.between(now, 0, math.MaxUint64, maxAlerts) {
		s := w.subject(it.Labels)
		if alerts[s] == nil {
			subjects = append(subjects, s)
		}
		alerts[s] = append(alerts[s], it)
	}
	maps.DeleteFunc(w.groups, func(s subject, g *group) bool {
		return alerts[s] == nil && now.Sub(g.tried) >= w.pace.resend
	})

	due := now.Add(w.pace.repeat)
	var first *group  // of those that are due, the one whose turn is the longest ago:
	var about subject // a message that never gets through must not keep the others
	var upTo uint64
	for _, s := range subjects {
		g := w.groups[s]
		if g == nil {
			g = &group{limit: maxBatch}
			w.groups[s] = g
		}
		items := alerts[s]
		newest := items[len(items)-1].seq
		when := g.tried.Add(w.pace.resend)
		switch {
		case newest > g.told:
			if last {
				when = now
			}
		case last || !slices.ContainsFunc(items, func(it item) bool { return it.firing() }):
			continue
		case when.Before(g.at.Add(w.pace.repeat)):
			when = g.at.Add(w.pace.repeat)
		}
		if when.After(now) {
			if when.Before(due) {
				due = when
			}
			continue
		}
		if first == nil || g.turn < first.turn {
			first, about, upTo = g, s, newest
		}
	}
	if first != nil {
		w.turns++
		first.turn = w.turns
		n := w.notification(about.rule, alerts[about], first)
		body, err := inFormat(w.sender.config.Load(), n)
		fewer := len(n.Alerts) // can be told, where the message is too large
		if w.format != "" && w.format != rules.FormatAlertmanager {
			fewer = 1 // it is as large as the service takes
		}
		return &message{body: body, err: err, alerts: len(n.Alerts), settle: func(now time.Time, err *failure) (smaller bool) {
			if err == nil {
				w.table.hear(w.sender, upTo, func(labels map[string]string) bool { return w.subject(labels) == about })
			}
			return first.settle(now, err, upTo, fewer, len(body))
		}}, now
	}
	return nil, due
}

func (w *webhook) well() bool {
	for _, g := range w.groups {
		if g.ails {
			return false
		}
	}
	return true
}

// settle notes how a message of that size fared that told the news up to a number
// with n alerts. Alerts that a message leaves out are not told later: it is made
// smaller only where the receiver will not have it otherwise, and not because it is
// down.
func (g *group) settle(now time.Time, err *failure, upTo uint64, n, size int) (smaller bool) {
	g.ails = err != nil
	if err != nil && err.large && !err.final {
		g.hangUps++
	}
	switch {
	case err == nil:
		if g.limit == maxBatch {
			g.hangUps = 0
		}
		g.tried, g.at, g.told, g.limit = now, now, upTo, min(2*g.limit, maxBatch)
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

// notification tells of all alerts of a rule that fire, and of those that have
// ended since it was last told.
func (w *webhook) notification(name string, items []item, g *group) *notification {
	items = slices.DeleteFunc(items, func(it item) bool { return !it.firing() && it.seq <= g.told })
	slices.SortStableFunc(items, func(a, b item) int { // what fires comes first, and is not cut off
		if a.firing() != b.firing() {
			if a.firing() {
				return -1
			}
			return 1
		}
		return a.StartsAt.Compare(b.StartsAt)
	})
	n := &notification{
		Version:           "4",
		GroupKey:          fmt.Sprintf("{}:{alertname=%q}", name),
		Status:            status(items[0]),
		Receiver:          w.receiver,
		GroupLabels:       map[string]string{"alertname": name},
		CommonLabels:      copied(items[0].Labels),
		CommonAnnotations: copied(items[0].Annotations),
		ExternalURL:       w.page,
	}
	size := len(encode(n))
	for _, it := range items[:min(len(items), g.limit)] {
		one := notifiedAlert{
			Status:       status(it),
			Labels:       copied(it.Labels),
			Annotations:  copied(it.Annotations),
			StartsAt:     it.StartsAt,
			EndsAt:       it.EndsAt,
			GeneratorURL: w.page,
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
	if it.firing() {
		return statusFiring
	}
	return statusResolved
}

// copied is never nil: to JSON that would be null, which nobody expects here.
func copied(m map[string]string) map[string]string {
	c := make(map[string]string, len(m))
	maps.Copy(c, m)
	return c
}

// keepCommon leaves in common what others says too.
func keepCommon(common, others map[string]string) {
	maps.DeleteFunc(common, func(name, value string) bool {
		other, ok := others[name]
		return !ok || other != value
	})
}
