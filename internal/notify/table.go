package notify

import (
	"hash/fnv"
	"maps"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sockdog/sockdog/internal/alert"
	"github.com/sockdog/sockdog/rules"
)

// maxAlerts bounds what a receiver can hold.
const maxAlerts = 10_000

// table holds the state of each alert of a receiver. Transitions are numbered, so
// that a sender remembers one number for all that it has sent.
type table struct {
	mu       sync.Mutex
	byLabels map[string]*entry
	entries  []*entry            // the same, by their numbers
	resolved int                 // how many of them are
	last     uint64              // number
	overflow map[string]struct{} // labels of alerts that fire and were dropped, at most maxAlerts
	drops    atomic.Uint64

	once    bool          // a resolved alert is sent once
	keep    time.Duration // for how long it may be sent
	senders []*sender
}

// entry is the last transition of an alert: it fires, or has ended.
type entry struct {
	alert.Alert
	labels string // canonical
	seq    uint64
	since  time.Time
}

func newTable() *table {
	return &table{byLabels: make(map[string]*entry), overflow: make(map[string]struct{})}
}

// serve sets the senders, and how long they repeat resolved alerts.
func (t *table) serve(form rules.Form, p pace, senders []*sender) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.senders = senders
	// Alertmanager forgets what is not repeated, and may have been away. A webhook
	// gets each resolved alert once, as soon as it takes it.
	t.once, t.keep = false, p.keep
	if form == rules.Webhook {
		t.once, t.keep = true, 24*time.Hour
		t.removeResolved(t.isSent)
	}
}

// set takes in the state of alerts. It reports whether there are transitions, and
// how many alerts were dropped.
func (t *table) set(now time.Time, alerts []alert.Alert) (news bool, dropped uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expire(now)
	for _, a := range alerts {
		labels := canonical(a.Labels)
		e := t.byLabels[labels]
		if e != nil && e.Firing() == a.Firing() {
			e.Alert = a
			continue
		}
		if e == nil && len(t.byLabels) >= maxAlerts {
			// A resolved alert that a sender has yet to send is lost with its entry.
			if t.resolved == 0 {
				if t.drop(labels, a.Firing()) {
					dropped++
				}
				continue
			}
			e = t.entries[slices.IndexFunc(t.entries, func(e *entry) bool { return !e.Firing() })]
			if !t.isSent(e) {
				dropped++
			}
		}
		if e != nil {
			t.remove(e)
		}
		if a.Annotations == nil {
			a.Annotations = map[string]string{} // null in JSON is no map
		}
		delete(t.overflow, labels)
		t.last++
		e = &entry{Alert: a, labels: labels, seq: t.last, since: now}
		t.byLabels[labels] = e
		t.entries = append(t.entries, e)
		if !a.Firing() {
			t.resolved++
		}
		news = true
	}
	t.drops.Add(dropped)
	return news, dropped
}

// drop notes that there is no room for an alert. It reports whether that is new: an
// alert that fires is set again and again.
func (t *table) drop(labels string, firing bool) bool {
	_, known := t.overflow[labels]
	switch {
	case known && !firing:
		delete(t.overflow, labels)
	case !known && firing && len(t.overflow) < maxAlerts:
		t.overflow[labels] = struct{}{}
	case firing:
		return false
	}
	return !known
}

func (t *table) remove(e *entry) {
	delete(t.byLabels, e.labels)
	i := t.after(e.seq - 1)
	t.entries = slices.Delete(t.entries, i, i+1)
	if !e.Firing() {
		t.resolved--
	}
}

// removeResolved removes the resolved alerts that need not be sent any more.
func (t *table) removeResolved(done func(e *entry) bool) {
	if t.resolved == 0 {
		return
	}
	t.entries = slices.DeleteFunc(t.entries, func(e *entry) bool {
		if e.Firing() || !done(e) {
			return false
		}
		delete(t.byLabels, e.labels)
		t.resolved--
		return true
	})
}

// expire removes the resolved alerts whose time to be sent is over.
func (t *table) expire(now time.Time) {
	t.removeResolved(func(e *entry) bool { return now.Sub(e.since) >= t.keep })
}

// isSent reports whether every sender has sent the transition.
func (t *table) isSent(e *entry) bool {
	return !slices.ContainsFunc(t.senders, func(s *sender) bool { return e.seq > s.sent[s.subject(e.Labels)] })
}

// markSent notes that a sender has sent the transitions about a subject up to a number.
func (t *table) markSent(s *sender, about subject, upTo uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.sent[about] = upTo
	if t.once {
		t.removeResolved(t.isSent)
	}
}

// item is an alert with the number of its transition.
type item struct {
	alert.Alert
	seq uint64
}

// between returns at most n of the alerts whose transition is later than after and no
// later than upTo, the earliest first.
func (t *table) between(now time.Time, after, upTo uint64, n int) []item {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expire(now)
	entries := t.entries[t.after(after):]
	items := make([]item, 0, min(len(entries), n))
	for _, e := range entries {
		if e.seq > upTo || len(items) == n {
			break
		}
		it := item{e.Alert, e.seq}
		if !it.Firing() && it.EndsAt.After(now) {
			it.EndsAt = now // the clock was set back; an end to come would have it fire again
		}
		items = append(items, it)
	}
	return items
}

// after returns the index of the first entry with a higher number than seq.
func (t *table) after(seq uint64) int {
	return sort.Search(len(t.entries), func(i int) bool { return t.entries[i].seq > seq })
}

// canonical is equal for equal labels, and for no others: UTF-8 has no byte 0xff.
func canonical(labels map[string]string) string {
	names := slices.AppendSeq(make([]string, 0, 16), maps.Keys(labels))
	slices.Sort(names)
	b := make([]byte, 0, 256)
	for _, name := range names {
		b = append(append(b, name...), 0xff)
		b = append(append(b, labels[name]...), 0xff)
	}
	return string(b)
}

// fingerprint is what Alertmanager calls the labels (LabelSet.Fingerprint).
func fingerprint(labels map[string]string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(canonical(labels)))
	return h.Sum64()
}
