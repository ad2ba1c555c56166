package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sockdog/sockdog/internal/alert"
	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/notify"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// teller puts alarms into words and keeps the receivers told. It does so apart
// from the loop: a template can take its time, and so can a log that hangs.
type teller struct {
	host     string
	notifier *notify.Notifier
	holders  *survey
	say      func(level slog.Level, text string, attrs ...slog.Attr)

	mail    sync.Mutex
	box     []dispatch
	arrived chan struct{}
	closing chan struct{}
	done    chan struct{}

	receivers []string
	begun     map[string]*begun // by identity, of the alarms that fire
	failed    map[string]bool   // rules whose template failed, until there are new rules
	troubles  atomic.Pointer[[]string]
	results   atomic.Pointer[[]notify.Stats]
}

// dispatch is a part of a plan on its way to the receivers, or the rules to follow
// from then on.
type dispatch struct {
	rules  *rules.Set
	alarms []engine.Alert
	now    sock.Instant
	at     time.Time
}

// begun is what is remembered of an alarm that fires.
type begun struct {
	startsAt time.Time
	held     sock.Instant // its conditions have, since
	since    time.Time    // the same by the wall clock, as it was said first
	holders  string       // as far as they were ever known
}

// mostDispatches bounds what waits while a log or a template takes its time. What
// fires is said again at the next sample; only an end is said once.
const mostDispatches = 256

func newTeller(o *Options, say func(level slog.Level, text string, attrs ...slog.Attr)) *teller {
	t := &teller{
		host: o.Host, notifier: notify.New(notify.Options{Log: say, Page: o.Page}), holders: newSurvey(o), say: say,
		arrived: make(chan struct{}, 1), closing: make(chan struct{}), done: make(chan struct{}),
		begun: make(map[string]*begun), failed: make(map[string]bool),
	}
	go t.run()
	return t
}

// post hands a dispatch over without waiting.
func (t *teller) post(d dispatch) {
	t.mail.Lock()
	if len(t.box) >= mostDispatches && d.rules == nil {
		d.alarms = slices.DeleteFunc(slices.Clone(d.alarms), func(a engine.Alert) bool { return a.Ended == 0 })
	}
	if len(d.alarms) > 0 || d.rules != nil {
		t.box = append(t.box, d)
	}
	t.mail.Unlock()
	select {
	case t.arrived <- struct{}{}:
	default:
	}
}

// close has what is left told, as far as that can be done in a moment. It does not
// wait: done is closed then.
func (t *teller) close() { close(t.closing) }

// farewell is how long receivers have to take what is left when the daemon ends.
const farewell = 400 * time.Millisecond

func (t *teller) run() {
	defer close(t.done)
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		closing := false
		select {
		case <-t.arrived:
		case <-ticker.C:
		case <-t.closing:
			closing = true
		}
		t.mail.Lock()
		box := t.box
		t.box = nil
		t.mail.Unlock()
		for i := range box {
			if d := &box[i]; d.rules != nil {
				t.follow(d.rules)
			} else {
				t.tell(d)
			}
		}
		results := t.notifier.Stats()
		t.results.Store(&results)
		if closing {
			ctx, cancel := context.WithTimeout(context.Background(), farewell)
			defer cancel()
			t.notifier.Close(ctx)
			return
		}
	}
}

// follow makes the receivers those of new rules. What ended with the old ones has
// been told before.
func (t *teller) follow(set *rules.Set) {
	t.receivers = nil
	for i := range set.Receivers {
		t.receivers = append(t.receivers, set.Receivers[i].Name)
	}
	t.notifier.Reconfigure(set.Receivers)
	clear(t.failed)
	t.troubles.Store(nil)
}

// tell tells the receivers how alarms stand.
func (t *teller) tell(d *dispatch) {
	isNew := func(a engine.Alert) bool { return t.begun[identity(&a)] == nil }
	t.holders.scan(d.alarms, slices.ContainsFunc(d.alarms, isNew), t.closing)
	alerts := make(map[string][]alert.Alert) // by receiver
	for i := range d.alarms {
		a := &d.alarms[i]
		to := a.Options.To
		if len(to) == 0 {
			to = t.receivers
		}
		said := t.word(a, d)
		for _, receiver := range to {
			alerts[receiver] = append(alerts[receiver], said)
		}
	}
	for receiver, some := range alerts {
		t.notifier.Set(receiver, some...)
	}
}

// word puts an alarm into words.
func (t *teller) word(a *engine.Alert, d *dispatch) alert.Alert {
	wall := func(at sock.Instant) time.Time { return d.at.Add(-d.now.Sub(at)) }
	id := identity(a)
	b := t.begun[id]
	if b == nil {
		b = &begun{startsAt: wall(a.Started)}
		t.begun[id] = b
	}
	said := alert.Alert{Labels: alert.Labels(a, t.host), StartsAt: b.startsAt}
	if a.Since != b.held {
		b.held, b.since = a.Since, wall(a.Since)
	}
	if holders, known := t.holders.of(a); known || b.holders == "" {
		b.holders = holders
	}
	facts := alert.Facts{Instance: t.host, Since: b.since, Until: d.at, Holders: b.holders}
	if a.Ended != 0 {
		delete(t.begun, id)
		said.EndsAt = wall(a.Ended)
		facts.Until = said.EndsAt
	}
	if a.Over != 0 {
		facts.Until = wall(a.Over)
	}
	var err error
	if said.Annotations, err = alert.Annotations(a, facts); err != nil && !t.failed[a.Rule] {
		t.failed[a.Rule] = true
		t.say(slog.LevelError, "a template failed: the alert says what sockdog says by itself", slog.String("rule", a.Rule), slog.String("error", err.Error()))
		troubles := append(slices.Clone(t.ailing()), err.Error())
		t.troubles.Store(&troubles)
	}
	return said
}

// ailing is what failed of the templates of the rules in force.
func (t *teller) ailing() []string {
	if all := t.troubles.Load(); all != nil {
		return *all
	}
	return nil
}

// fared is how the receivers fare.
func (t *teller) fared() []notify.Stats {
	if all := t.results.Load(); all != nil {
		return *all
	}
	return nil
}

// identity tells the alarms of all rules apart.
func identity(a *engine.Alert) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %d %t", a.Rule, a.Action, a.Others > 0)
	for _, l := range a.Group {
		b.WriteString(" " + l.Name + "=" + strconv.Quote(l.Value))
	}
	return b.String()
}
