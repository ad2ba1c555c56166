package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/alert"
	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/notify"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// alertPublisher words alerts and keeps the receivers up to date. It does so apart
// from the loop: a template can take its time.
type alertPublisher struct {
	queue[[]update]
	host       string
	notifier   *notify.Notifier
	say        Say
	netnsNames netnsNames
	ended      chan struct{} // closed once the receivers had their time

	receivers []string
	firing    map[string]*firing // by identity
	failed    map[string]string  // why the template of a rule failed, until there are new rules; guarded by mu
}

// update is a part of a plan on its way to the receivers, or the rules to follow
// from then on.
type update struct {
	rules   *rules.Set
	alerts  []engine.Alert
	ofRules []engine.RuleAlert // about rules themselves
	now     sock.Instant
	at      time.Time
}

// wall is an instant by the wall clock, as that is now.
func (u *update) wall(at sock.Instant) time.Time { return u.at.Add(-u.now.Sub(at)) }

// firing is what is remembered of an alert that fires.
type firing struct {
	startsAt time.Time
	held     sock.Instant // its conditions have, since
	since    time.Time    // the same by the wall clock, as it was said first
	holders  string       // as far as they were ever known
}

const (
	// mostUpdates bounds what waits while a template takes its time. What fires is
	// published again at the next sample; only an end is published once.
	mostUpdates = 256
	// shutdownTimeout is how long receivers have to take what is left when the daemon
	// ends.
	shutdownTimeout = 400 * time.Millisecond
)

func newAlertPublisher(o *Options, say Say) *alertPublisher {
	p := &alertPublisher{
		host: o.Host, notifier: notify.New(notify.Options{Log: say, Page: o.Page}), say: say, netnsNames: o.NetnsName,
		ended:  make(chan struct{}),
		firing: make(map[string]*firing), failed: make(map[string]string),
	}
	p.start(func(updates []update) {
		for i := range updates {
			if u := &updates[i]; u.rules != nil {
				p.follow(u.rules)
			} else {
				p.send(u)
			}
		}
	})
	return p
}

// publish hands over an update without waiting.
func (p *alertPublisher) publish(u update) {
	if len(u.alerts)+len(u.ofRules) == 0 && u.rules == nil {
		return
	}
	p.put(func(updates *[]update) {
		if len(*updates) >= mostUpdates && u.rules == nil {
			u.alerts = slices.DeleteFunc(slices.Clone(u.alerts), func(a engine.Alert) bool { return a.Ended == 0 })
		}
		if len(u.alerts)+len(u.ofRules) > 0 || u.rules != nil {
			*updates = append(*updates, u)
		}
	})
}

// close has what is left sent, as far as that can be done in a moment. It does not
// wait: ended is closed then.
func (p *alertPublisher) close() {
	go func() {
		defer close(p.ended)
		p.queue.close(shutdownTimeout)
		ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
		defer cancel()
		p.notifier.Close(ctx)
	}()
}

// follow makes the receivers those of new rules. What ended with the old ones has
// been told before.
func (p *alertPublisher) follow(set *rules.Set) {
	p.receivers = nil
	for i := range set.Receivers {
		p.receivers = append(p.receivers, set.Receivers[i].Name)
	}
	p.notifier.Reconfigure(set.Receivers)
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.failed)
}

// send sends the receivers how alerts stand.
func (p *alertPublisher) send(u *update) {
	alerts := make(map[string][]alert.Alert) // by receiver
	put := func(to []string, said alert.Alert) {
		if len(to) == 0 {
			to = p.receivers
		}
		for _, receiver := range to {
			alerts[receiver] = append(alerts[receiver], said)
		}
	}
	for i := range u.alerts {
		put(u.alerts[i].Options.To, p.word(&u.alerts[i], u))
	}
	for i := range u.ofRules {
		put(u.ofRules[i].To, p.wordOfRule(&u.ofRules[i], u))
	}
	for receiver, some := range alerts {
		p.notifier.Set(receiver, some...)
	}
}

// word puts an alert into words.
func (p *alertPublisher) word(a *engine.Alert, u *update) alert.Alert {
	labels := alert.Labels(a, p.host)
	id := fmt.Sprintf("%d %q", a.Action, labels) // in the order of their names
	b := p.fires(id, u.wall(a.Started))
	said := alert.Alert{Labels: labels, StartsAt: b.startsAt}
	if a.Since != b.held {
		b.held, b.since = a.Since, u.wall(a.Since)
	}
	if holders, known := heldBy(a); known || b.holders == "" {
		b.holders = holders
	}
	facts := alert.Facts{Instance: p.host, Since: b.since, Until: u.at, Holders: b.holders, NetnsName: p.netnsNames.name(netnsOf(labels))}
	if a.Ended != 0 {
		delete(p.firing, id)
		said.EndsAt = u.wall(a.Ended)
		facts.Until = said.EndsAt
	}
	if a.Over != 0 {
		facts.Until = u.wall(a.Over)
	}
	var err error
	if said.Annotations, err = alert.Annotations(a, facts); err != nil {
		p.templateFailed(a.Rule, err)
	}
	return said
}

// fires returns what is remembered of an alert, which begins to fire then where nothing is.
func (p *alertPublisher) fires(id string, startsAt time.Time) *firing {
	b := p.firing[id]
	if b == nil {
		b = &firing{startsAt: startsAt}
		p.firing[id] = b
	}
	return b
}

// wordOfRule puts an alert about a rule itself into words.
func (p *alertPublisher) wordOfRule(a *engine.RuleAlert, u *update) alert.Alert {
	labels := alert.RuleLabels(a, p.host)
	id := fmt.Sprintf("rule %q", labels)
	said := alert.Alert{Labels: labels, StartsAt: p.fires(id, u.wall(a.Since)).startsAt}
	facts := alert.Facts{Instance: p.host, Since: said.StartsAt, Until: u.at}
	if a.Ended != 0 {
		delete(p.firing, id)
		said.EndsAt = u.wall(a.Ended)
		facts.Until = said.EndsAt
	}
	said.Annotations = alert.RuleAnnotations(a, facts)
	return said
}

// templateFailed says it once.
func (p *alertPublisher) templateFailed(rule string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed[rule] == "" {
		p.failed[rule] = err.Error()
		p.say(slog.LevelError, "template failed; the alert has the built-in text", slog.String("rule", rule), slog.String("error", err.Error()))
	}
}

// failures are those of the templates of the rules in force.
func (p *alertPublisher) failures() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(maps.Values(p.failed))
}
