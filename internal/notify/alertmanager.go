package notify

import (
	"encoding/json"
	"math"
	"slices"
	"sync/atomic"
	"time"
)

// maxBatch bounds one message, to an Alertmanager and about one group to a webhook.
const maxBatch = 500

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
	}
	// By turns: where one message takes longer than the next news, what fires must
	// not lapse for want of a repetition.
	ways := []func(time.Time, uint64) *message{a.news, a.repetition}
	if a.wasNews {
		slices.Reverse(ways)
	}
	for _, way := range ways {
		if m := way(now, told); m != nil {
			return m, now
		}
	}
	return nil, a.due
}

// news tells what has not been told yet.
func (a *alertmanager) news(now time.Time, told uint64) *message {
	items := a.table.between(now, told, math.MaxUint64, maxBatch)
	if len(items) == 0 {
		return nil
	}
	a.wasNews = true
	upTo := items[len(items)-1].seq
	return a.message(now, items, func(time.Time, bool) {
		if a.repeated == told {
			a.repeated = upTo // what was told just now is not repeated yet
		}
		a.told.Store(upTo)
	})
}

// repetition tells what has been told before.
func (a *alertmanager) repetition(now time.Time, told uint64) *message {
	items := a.table.between(now, a.repeated, told, maxBatch)
	if len(items) == 0 {
		a.repeated = told
		return nil
	}
	a.wasNews = false
	upTo := items[len(items)-1].seq
	return a.message(now, items, func(time.Time, bool) { a.repeated = upTo })
}

func (a *alertmanager) message(now time.Time, items []item, settle func(time.Time, bool)) *message {
	all := make([]postableAlert, 0, len(items))
	for _, it := range items {
		p := postableAlert{it.Labels, it.Annotations, it.StartsAt, it.EndsAt, a.page}
		if it.firing() {
			p.EndsAt = now.Add(a.pace.lapse)
		}
		if p.StartsAt.After(p.EndsAt) {
			p.StartsAt = p.EndsAt // the clock was set back; Alertmanager would refuse it
		}
		all = append(all, p)
	}
	return &message{body: encode(all), alerts: len(all), settle: settle}
}

func encode(v any) []byte {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings, numbers and times of this age
	}
	return body
}
