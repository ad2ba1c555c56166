package notify

import (
	"encoding/json"
	"math"
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/alert"
)

// These bound one message, to an Alertmanager and about one group to a webhook: in
// alerts, and in bytes but for a single alert.
const (
	maxBatch = 500
	maxBody  = 256 << 10
)

// alertmanager sends one Alertmanager every transition, and over and over all that
// fires or has just ended: it forgets an alert that nobody repeats.
type alertmanager struct {
	*sender

	repeated uint64    // the repetition under way has come to this number
	due      time.Time // when the next one begins
	wasNews  bool      // the last message had transitions
	limit    int       // of the alerts in a message

	skipped bool // a single alert did not get through, and nothing has since
	wanted  bool // an extra repetition, for what was skipped
	extra   bool // the last repetition was one

	idle   bool // nothing has been sent since the last repetition began
	begun  int  // repetitions
	needed int  // repetitions that must be over before the URL has caught up
}

// postableAlert is an alert in Alertmanager's API, version 2.
type postableAlert struct {
	alert.Alert
	GeneratorURL string `json:"generatorURL,omitempty"`
}

func (a *alertmanager) next(now time.Time, last bool) (*message, time.Time) {
	sent := a.sentUpTo.Load()
	if last {
		return a.fresh(now, sent), now
	}
	if a.repeated >= sent && !now.Before(a.due) {
		a.repeated, a.due = 0, now.Add(a.notifier.pace.resend)
		a.extra, a.wanted = a.wanted, false
		a.idle = true
		a.begun++
	}
	// By turns: where transitions come faster than they are sent, what fires must not
	// lapse for want of a repetition.
	ways := []func(time.Time, uint64) *message{a.fresh, a.repetition}
	if a.wasNews {
		slices.Reverse(ways)
	}
	for _, way := range ways {
		if m := way(now, sent); m != nil {
			a.idle = false
			return m, now
		}
	}
	if a.idle { // whether alerts would be taken is better known before there are any
		a.idle = false
		return &message{body: []byte("[]"), settle: func(_ time.Time, err *failure) (smaller bool) {
			if err != nil {
				a.needed = a.begun + 1
			}
			return false
		}}, now
	}
	return nil, a.due
}

// caughtUp: one whole repetition has got through since something last did not.
func (a *alertmanager) caughtUp() bool {
	over := a.begun
	if a.repeated < a.sentUpTo.Load() {
		over--
	}
	return over >= a.needed
}

// fresh is a message of what has not been sent yet.
func (a *alertmanager) fresh(now time.Time, sent uint64) *message {
	items := a.receiver.table.between(now, sent, math.MaxUint64, maxBatch+1)
	if len(items) == 0 {
		return nil
	}
	a.wasNews = true
	body, n := a.batch(now, items)
	upTo := items[n-1].seq
	return &message{body: body, alerts: n, settle: func(now time.Time, err *failure) (smaller bool) {
		over, smaller := a.judge(now, err, n, n < len(items))
		if over {
			if a.repeated == sent {
				a.repeated = upTo // what was sent just now is not repeated yet
			}
			a.sentUpTo.Store(upTo)
		}
		return smaller
	}}
}

// repetition is a message of what has been sent before.
func (a *alertmanager) repetition(now time.Time, sent uint64) *message {
	items := a.receiver.table.between(now, a.repeated, sent, maxBatch+1)
	if len(items) == 0 {
		a.repeated = sent
		return nil
	}
	a.wasNews = false
	body, n := a.batch(now, items)
	return &message{body: body, alerts: n, settle: func(now time.Time, err *failure) (smaller bool) {
		over, smaller := a.judge(now, err, n, n < len(items) || !now.Before(a.due))
		switch {
		case over && n < len(items):
			a.repeated = items[n-1].seq
		case over:
			a.repeated = sent
		}
		return smaller
	}}
}

// judge says what follows from the outcome of a message with n alerts: whether it is
// done with, or to be sent in smaller ones. A single alert that does not get through
// is skipped until the next repetition if others wait behind it.
func (a *alertmanager) judge(now time.Time, err *failure, n int, othersWait bool) (over, smaller bool) {
	switch {
	case err == nil:
		if n == a.limit { // by little, or every other message would be too large again
			a.limit = min(n+n/10+1, maxBatch)
		}
		// The receiver may have been away until now, and the skipped alert no worse
		// than this one. Once: an alert that is worse must not have all the others
		// repeated without end.
		if a.skipped && !a.extra {
			a.due, a.wanted = now, true
		}
		a.skipped = false
		return true, false
	case err.large && n > 1:
		a.limit = n / 2
		return false, true
	case err.final:
	case err.large && othersWait:
		a.skipped = true
	default:
		return false, false
	}
	a.needed = a.begun + 1
	return true, false
}

// batch puts the first n of the items into one message.
func (a *alertmanager) batch(now time.Time, items []item) (body []byte, n int) {
	body = []byte("[")
	for _, it := range items[:min(len(items), a.limit)] {
		p := postableAlert{it.Alert, a.notifier.Page}
		if it.Firing() {
			p.EndsAt = now.Add(a.notifier.pace.lapse)
		}
		if p.StartsAt.After(p.EndsAt) {
			p.StartsAt = p.EndsAt // the clock was set back; Alertmanager would refuse it
		}
		one := encode(&p)
		if n > 0 {
			if len(body)+len(one) > maxBody {
				break
			}
			body = append(body, ',')
		}
		body = append(body, one...)
		n++
	}
	return append(body, ']'), n
}

func encode(v any) []byte {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings, numbers and times of this age
	}
	return body
}
