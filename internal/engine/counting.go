package engine

import (
	"log/slog"
	"slices"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/walk"
	"github.com/sockdog/sockdog/internal/sock"
)

// holders are who holds the sockets of which rules ask that.
type holders struct {
	cache   *holderCache
	parts   [1 << match.NumClasses]askedPart // what the last scans asked for, by Scan.Part
	asked   [][]askedSocket                  // in the walk under way; nil: it is not for these rules
	waiting []*waitingCount                  // the oldest first
	rescan  match.ClassSet                   // after the walk: scans for these had too many to count
}

// askedPart is what a scan asked for.
type askedPart struct {
	sockets []askedSocket
	unknown bool
}

// waitingCount is a whole scan of which rules have sockets that are to be counted once it
// is known who holds them.
type waitingCount struct {
	result    *ScanResult
	sent, got sock.Instant
	walked    bool // the walk under way tells
}

func newHolders() holders { return holders{cache: &holderCache{}} }

// begin adds to the inodes of a walk those that scans asked for.
func (h *holders) begin(inodes []uint32) []uint32 {
	h.asked = [][]askedSocket{}
	for i := range h.parts {
		p := &h.parts[i]
		p.unknown = false
		h.asked = append(h.asked, p.sockets)
		for _, s := range p.sockets {
			inodes = append(inodes, s.inode)
		}
	}
	for _, c := range h.waiting {
		c.walked = true
	}
	return inodes
}

// giveUpCounts drops what has waited since before then: what a later scan counts is not to
// wait for it.
func (e *Engine) giveUpCounts(before sock.Instant) {
	e.holders.waiting = slices.DeleteFunc(e.holders.waiting, func(c *waitingCount) bool {
		for i, r := range e.rules {
			if c.got < before && c.result.scan.counts[i].postponed {
				e.noteUnseen(r, true)
			}
		}
		return c.got < before
	})
}

// unknown reports whether it is not known of all that scans asked for.
func (h *holders) unknown() bool {
	return slices.ContainsFunc(h.parts[:], func(p askedPart) bool { return p.unknown })
}

// supersede has a scan be counted for a rule instead of earlier ones, unless the walk under
// way is for one of these: it would find nothing of what came later.
func (h *holders) supersede(rule int) bool {
	for _, c := range h.waiting {
		switch count := &c.result.scan.counts[rule]; {
		case !count.postponed:
		case c.walked:
			return false
		default:
			count.postponed = false
		}
	}
	return true
}

// askForHolders has it looked for who holds what a whole scan asked for, and keeps what is
// to be counted then.
func (e *Engine) askForHolders(f *ScanResult, sent, now sock.Instant) {
	l, h := f.scan, &e.holders
	h.parts[l.of] = askedPart{f.asked, f.unknown}
	f.asked = nil
	e.walks.WantCounted(h.unknown(), e.program.Settings.CPUBudget)
	waits := false
	for i := range l.counts {
		r, c := e.rules[i], &l.counts[i]
		switch {
		case !r.NeedsHolders || !r.Scanned() || !l.of.Has(r.Class):
		case f.tooMany:
			c.postponed, c.dropped = false, true
			e.noteUnseen(r, true)
		case c.postponed && f.overflow:
			h.rescan |= 1 << r.Class
			c.postponed, c.dropped = false, true
		case sent <= r.recounted || !h.supersede(i): // its tally knows nothing of that count
			c.postponed, c.dropped = false, true
		default:
			waits = waits || c.postponed
		}
	}
	h.waiting = slices.DeleteFunc(h.waiting, func(c *waitingCount) bool {
		return !slices.ContainsFunc(c.result.scan.counts, func(c ruleCount) bool { return c.postponed })
	})
	if waits {
		h.waiting = append(h.waiting, &waitingCount{result: f, sent: sent, got: now})
	}
}

// takeHolders takes in what a walk has found of sockets of which rules ask who holds them.
func (e *Engine) takeHolders(in *HoldersFound, wants []walk.Want, now sock.Instant) {
	h := &e.holders
	if h.asked == nil {
		return // no rule asks, or new rules came meanwhile
	}
	var tracked []askedSocket
	for _, w := range wants {
		if w.Cookie != 0 && !w.Alert && w.Killed == "" {
			tracked = append(tracked, askedSocket{w.Cookie, w.Inode})
		}
	}
	h.cache = newHolderCache(in, append(h.asked, tracked), e.walks.Began())
	h.asked = nil
	e.walks.WantCounted(h.unknown(), e.program.Settings.CPUBudget)
	for t := range e.tracks.all() {
		if held := h.cache.of(t.Cookie, t.Inode); held != nil && held != nobody && !t.is(wanted) {
			e.foundHolders(t, held, false, now)
		}
	}
	for _, c := range h.waiting {
		if c.walked {
			e.recount(c, now)
		}
	}
	h.waiting = slices.DeleteFunc(h.waiting, func(c *waitingCount) bool { return c.walked })
	for c := range match.NumClasses {
		if h.rescan.Has(c) {
			e.schedule.Hasten(c, now)
		}
	}
	h.rescan = 0
}

// recount counts those sockets of a scan of which it is now known who holds them.
func (e *Engine) recount(c *waitingCount, now sock.Instant) {
	f := c.result
	l := f.scan
	f.recounts, l.holders, l.believed = true, e.holders.cache, 0
	for w := range f.uncounted.Drain() {
		s := f.hits.socket(&w.hit)
		f.count(l.subject(&s), &w.Times, f.hits.got(&w.hit))
	}
	for i, r := range e.rules {
		if l.counts[i].postponed {
			r.recounted = now
			e.takeCount(r, l, c.sent, c.got, now)
		}
	}
}

// noteUnseen says once if a rule is not decided because nobody can tell who holds some
// sockets, and reports whether that is so.
func (e *Engine) noteUnseen(r *ruleState, unseen bool) bool {
	if !r.NeedsHolders {
		return false
	}
	began, over := r.unseen.note(unseen)
	if began {
		e.note(HoldersUnseen, slog.String("rule", r.Name))
	}
	if over {
		e.note(HoldersSeen, slog.String("rule", r.Name))
	}
	return unseen
}
