package notify

import (
	"hash/fnv"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/sockdog/sockdog/rules"
)

// maxAlerts bounds what a receiver can hold.
const maxAlerts = 10_000

// table holds how each alert of a receiver stands. News is numbered, so that a
// sender remembers one number for all that it has told.
type table struct {
	mu       sync.Mutex
	byLabels map[string]*entry
	news     queue // all entries
	ended    queue // those of alerts that have ended
	last     uint64
	lost     map[string]struct{} // labels of alerts that fire and were dropped, as many as the table holds
	drops    uint64

	once    bool          // what has ended is told once
	keep    time.Duration // for how long it may be told
	senders []*sender
}

// entry is one piece of news: an alert fires, or has ended. The next about the
// same alert takes its place.
type entry struct {
	Alert
	labels string // canonical
	seq    uint64
	since  time.Time
	heard  []*sender // of a webhook, those that have told it; of an end only
	stale  bool
}

func newTable() *table {
	return &table{byLabels: make(map[string]*entry), lost: make(map[string]struct{})}
}

// serve says who is told, and how.
func (t *table) serve(form rules.Form, p pace, senders []*sender) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.senders = senders
	// Alertmanager forgets what it is not told again, and may not have been
	// listening. A webhook hears each end once, as soon as it can be told.
	t.once, t.keep = false, p.keep
	if form == rules.Webhook {
		t.once, t.keep = true, 24*time.Hour
		t.clear()
	}
}

// set takes in how alerts stand. It reports whether there is news, and how much
// was dropped.
func (t *table) set(now time.Time, alerts []Alert) (news bool, dropped uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forget(now)
	for _, a := range alerts {
		labels := canonical(a.Labels)
		e := t.byLabels[labels]
		if e != nil && e.firing() == a.firing() {
			e.Alert = a
			continue
		}
		if e != nil {
			t.remove(e)
		} else if len(t.byLabels) >= maxAlerts {
			// An end that somebody has still to hear is lost with its entry.
			if t.ended.len() == 0 {
				if t.lose(labels, a.firing()) {
					dropped++
				}
				continue
			}
			oldest := t.ended.first()
			if !t.told(oldest) {
				dropped++
			}
			t.remove(oldest)
		}
		delete(t.lost, labels)
		t.last++
		e = &entry{Alert: a, labels: labels, seq: t.last, since: now}
		t.byLabels[labels] = e
		t.news.add(e)
		if !a.firing() {
			t.ended.add(e)
		}
		news = true
	}
	t.drops += dropped
	return news, dropped
}

// lose notes that there is no room for an alert. It reports whether that is news: an
// alert that fires is set again and again.
func (t *table) lose(labels string, firing bool) bool {
	_, known := t.lost[labels]
	switch {
	case known && !firing:
		delete(t.lost, labels)
	case !known && firing && len(t.lost) < maxAlerts:
		t.lost[labels] = struct{}{}
	case firing:
		return false
	}
	return !known
}

func (t *table) remove(e *entry) {
	delete(t.byLabels, e.labels)
	e.stale = true
	t.news.lose()
	if !e.firing() {
		t.ended.lose()
	}
}

// forget removes what has ended and need not be told any more.
func (t *table) forget(now time.Time) {
	for t.ended.len() > 0 && now.Sub(t.ended.first().since) >= t.keep {
		t.remove(t.ended.first())
	}
}

// told reports whether every sender has told an end.
func (t *table) told(e *entry) bool {
	return !slices.ContainsFunc(t.senders, func(s *sender) bool {
		if t.once {
			return !slices.Contains(e.heard, s)
		}
		return e.seq > s.told.Load()
	})
}

// hear notes that a webhook has been told of the ends up to a number whose labels are
// those that the message was about. What all have been told is told no more.
func (t *table) hear(s *sender, upTo uint64, about func(labels map[string]string) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range t.ended.entries {
		if e.seq <= upTo && about(e.Labels) && !slices.Contains(e.heard, s) {
			e.heard = append(e.heard, s)
		}
	}
	t.clear()
}

// clear removes the ends that every webhook has told.
func (t *table) clear() {
	for _, e := range slices.Clone(t.ended.entries) {
		if !e.stale && t.told(e) {
			t.remove(e)
		}
	}
}

// item is an alert with the number of its news.
type item struct {
	Alert
	seq uint64
}

// between returns at most n of the alerts whose news is later than after and no
// later than upTo, the earliest first.
func (t *table) between(now time.Time, after, upTo uint64, n int) []item {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forget(now)
	entries := t.news.after(after)
	items := make([]item, 0, min(len(entries), n))
	for _, e := range entries {
		if e.seq > upTo || len(items) == n {
			break
		}
		if e.stale {
			continue
		}
		it := item{e.Alert, e.seq}
		if !it.firing() && it.EndsAt.After(now) {
			it.EndsAt = now // the clock was set back; an end to come would have it fire again
		}
		items = append(items, it)
	}
	return items
}

func (t *table) dropped() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.drops
}

// queue lists entries in the order of their news. Stale ones stay until they are
// the half of it.
type queue struct {
	entries []*entry
	stale   int
}

func (q *queue) add(e *entry) { q.entries = append(q.entries, e) }

// lose notes that one of the entries went stale.
func (q *queue) lose() {
	q.stale++
	if q.stale*2 >= len(q.entries) {
		q.entries = slices.DeleteFunc(q.entries, func(e *entry) bool { return e.stale })
		q.stale = 0
	}
}

// len counts the entries that are not stale.
func (q *queue) len() int { return len(q.entries) - q.stale }

// first returns the first entry that is not stale.
func (q *queue) first() *entry {
	for q.entries[0].stale {
		q.entries, q.stale = q.entries[1:], q.stale-1
	}
	return q.entries[0]
}

// after returns the entries with news later than that, stale ones among them.
func (q *queue) after(seq uint64) []*entry {
	i := sort.Search(len(q.entries), func(i int) bool { return q.entries[i].seq > seq })
	return q.entries[i:]
}

// canonical is equal for equal labels, and for no others: UTF-8 has no byte 0xff.
func canonical(labels map[string]string) string {
	names := make([]string, 0, 16)
	size := 0
	for name, value := range labels {
		names = append(names, name)
		size += len(name) + len(value) + 2
	}
	slices.Sort(names)
	var b strings.Builder
	b.Grow(size)
	for _, name := range names {
		b.WriteString(name)
		b.WriteByte(0xff)
		b.WriteString(labels[name])
		b.WriteByte(0xff)
	}
	return b.String()
}

// fingerprint is what Alertmanager calls the labels (LabelSet.Fingerprint).
func fingerprint(labels map[string]string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(canonical(labels)))
	return h.Sum64()
}
