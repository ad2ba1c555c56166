package notify

import (
	"encoding/json"
	"math"
	"slices"
	"sync/atomic"
	"time"
)

// These bound one message, to an Alertmanager and about one group to a webhook: in
// alerts, and in bytes but for a single alert.
const (
	maxBatch = 500
	maxBody  = 256 << 10
)

// alertmanager tells one Alertmanager all news, and again and again all that
// fires or has just ended: it forgets an alert that nobody repeats.
type alertmanager struct {
	table *table
	pace  pace
	page  string
	told  *atomic.Uint64

	repeated uint64    // the repetition under way has come to this number
	due      time.Time // when the next one begins
	wasNews  bool      // the last message
	limit    int       // of the alerts in a message

	left   bool // a single alert did not get through, and nothing has since
	wanted bool // an extra repetition, for what was left
	extra  bool // the last repetition was one

	silent bool // nothing has been sent since the last repetition began
	begun  int  // how many repetitions
	heals  int  // the URL is well once so many are over
}

// postableAlert is an alert in Alertmanager's API, version 2.
type postableAlert struct {
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations"`
	StartsAt     time.Time         `json:"startsAt"`
	EndsAt       time.Time         `json:"endsAt"`
	GeneratorURL string            `json:"generatorURL,omitempty"`
}

func (a *alertmanager) next(now time.Time, last bool) (*message, time.Time) {
	told := a.told.Load()
	if last {
		return a.news(now, told), now
	}
	if a.repeated >= told && !now.Before(a.due) {
		a.repeated, a.due = 0, now.Add(a.pace.resend)
		a.extra, a.wanted = a.wanted, false
		a.silent = true
		a.begun++
	}
	// By turns: where one message takes longer than the next news, what fires must
	// not lapse for want of a repetition.
	ways := []func(time.Time, uint64) *message{a.news, a.repetition}
	if a.wasNews {
		slices.Reverse(ways)
	}
	for _, way := range ways {
		if m := way(now, told); m != nil {
			a.silent = false
			return m, now
		}
	}
	if a.silent { // whether alerts would be taken is better known before there are any
		a.silent = false
		return &message{body: []byte("[]"), settle: func(_ time.Time, err *failure) (smaller bool) {
			if err != nil {
				a.heals = a.begun + 1
			}
			return false
		}}, now
	}
	return nil, a.due
}

// well: one whole repetition has got through since something last did not.
func (a *alertmanager) well() bool {
	over := a.begun
	if a.repeated < a.told.Load() {
		over--
	}
	return over >= a.heals
}

// news tells what has not been told yet.
func (a *alertmanager) news(now time.Time, told uint64) *message {
	items := a.table.between(now, told, math.MaxUint64, maxBatch+1)
	if len(items) == 0 {
		return nil
	}
	a.wasNews = true
	body, n := a.batch(now, items)
	upTo := items[n-1].seq
	return &message{body: body, alerts: n, settle: func(now time.Time, err *failure) (smaller bool) {
		over, smaller := a.judge(now, err, n, n < len(items))
		if over {
			if a.repeated == told {
				a.repeated = upTo // what was told just now is not repeated yet
			}
			a.told.Store(upTo)
		}
		return smaller
	}}
}

// repetition tells what has been told before.
func (a *alertmanager) repetition(now time.Time, told uint64) *message {
	items := a.table.between(now, a.repeated, told, maxBatch+1)
	if len(items) == 0 {
		a.repeated = told
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
			a.repeated = told
		}
		return smaller
	}}
}

// judge says what follows from how a message with n alerts fared: whether it is over
// and done with, or to be told in smaller ones. A single alert that does not get
// through is left for the next repetition where others wait behind it.
func (a *alertmanager) judge(now time.Time, err *failure, n int, othersWait bool) (over, smaller bool) {
	switch {
	case err == nil:
		if n == a.limit { // by little, lest every other message is too large again
			a.limit = min(n+n/10+1, maxBatch)
		}
		// What was left may have been no worse than this, and the receiver away until
		// now. Once, lest what is worse has all the others repeated without end.
		if a.left && !a.extra {
			a.due, a.wanted = now, true
		}
		a.left = false
		return true, false
	case err.large && n > 1:
		a.limit = n / 2
		return false, true
	case err.final:
	case err.large && othersWait:
		a.left = true
	default:
		return false, false
	}
	a.heals = a.begun + 1
	return true, false
}

// batch puts the first n of the items into one message.
func (a *alertmanager) batch(now time.Time, items []item) (body []byte, n int) {
	body = []byte("[")
	for _, it := range items[:min(len(items), a.limit)] {
		p := postableAlert{it.Labels, it.Annotations, it.StartsAt, it.EndsAt, a.page}
		if it.firing() {
			p.EndsAt = now.Add(a.pace.lapse)
		}
		if p.StartsAt.After(p.EndsAt) {
			p.StartsAt = p.EndsAt // the clock was set back; Alertmanager would refuse it
		}
		one := encode(p)
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
