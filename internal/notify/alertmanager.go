package notify

import (
	"encoding/json"
	"math"
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
	if last {
		return a.message(now, true), now
	}
	if a.repeated >= a.sent[subject{}] && !now.Before(a.due) {
		a.repeated, a.due = 0, now.Add(a.notifier.pace.resend)
		a.extra, a.wanted = a.wanted, false
		a.idle = true
		a.begun++
	}
	// By turns: where transitions come faster than they are sent, what fires must not
	// lapse for want of a repetition.
	for _, news := range []bool{!a.wasNews, a.wasNews} {
		if m := a.message(now, news); m != nil {
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
	if a.repeated < a.sent[subject{}] {
		over--
	}
	return over >= a.needed
}

// message is the next one of what has not been sent yet, or of what is repeated; nil:
// there is none.
func (a *alertmanager) message(now time.Time, news bool) *message {
	sent := a.sent[subject{}]
	after, upTo := a.repeated, sent
	if news {
		after, upTo = sent, math.MaxUint64
	}
	items := a.receiver.table.between(now, after, upTo, maxBatch+1)
	if len(items) == 0 {
		if !news {
			a.repeated = sent
		}
		return nil
	}
	a.wasNews = news
	body, n := a.batch(now, items)
	if news || n < len(items) {
		upTo = items[n-1].seq
	}
	return &message{body: body, alerts: n, settle: func(now time.Time, err *failure) (smaller bool) {
		over, smaller := a.judge(now, err, n, n < len(items) || !news && !now.Before(a.due))
		if over && (!news || a.repeated == sent) { // what was sent just now is not repeated yet
			a.repeated = upTo
		}
		if over && news {
			a.receiver.table.markSent(a.sender, subject{}, upTo)
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
