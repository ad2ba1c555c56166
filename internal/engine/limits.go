package engine

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// budgets are the windows of all rules, by their id. A dry run has windows of
// its own.
type budgets struct {
	all, allDry *window
	own, ownDry map[uint64]*window
}

func newBudgets() budgets {
	return budgets{
		all: &window{}, allDry: &window{},
		own: make(map[uint64]*window), ownDry: make(map[uint64]*window),
	}
}

// windowOf returns the window of a rule, made where there is none.
func windowOf(windows map[uint64]*window, id uint64) *window {
	w := windows[id]
	if w == nil {
		w = &window{}
		windows[id] = w
	}
	return w
}

// rule puts the limits of new rules in force. What is in a window stays there,
// also while its rule is away: a reload gives no rule a second helping.
func (b *budgets) rule(p *Program) {
	b.all.limit, b.allDry.limit = p.settings.Limit, p.settings.Limit
	for i := range p.rules {
		r := &p.rules[i]
		for _, a := range r.Then {
			if a.Kind.Destructive() {
				windowOf(b.own, r.id).limit = a.Limit
				windowOf(b.ownDry, r.id).limit = a.Limit
			}
		}
	}
}

const (
	// RecordPatience is how long an act waits for the record of its intent.
	RecordPatience = 5 * time.Second
	// restoreSlack is how long after the record of its intent began to be written an
	// act may have been done, in an earlier run.
	restoreSlack = RecordPatience + time.Second
)

// restore takes in what an earlier run spent.
func (b *budgets) restore(spent []sock.Spent) {
	for _, s := range spent {
		at := s.At.Add(restoreSlack)
		for range s.N {
			windowOf(b.own, s.Rule).spend(at)
			b.all.spend(at)
		}
	}
}

func (b *budgets) of(r *rule, dry bool) budget {
	if dry {
		return budget{b.ownDry[r.id], b.allDry}
	}
	return budget{b.own[r.id], b.all}
}

// line is what the limit of a rule holds back.
type line struct {
	queue
	turns int // let go on, and not decided yet
}

// hold has t wait until the limit that holds it back lets one more go on; at
// next, something else may want it.
func (e *Engine) hold(t *track, next sock.Instant) {
	e.wait(t, next)
	e.lineOf(t).add(&t.line, t.order)
}

// lineOf is the line that t stands in, or left when its turn came. What is held
// back in a dry run stands in a line of its own, for it waits for another budget.
func (e *Engine) lineOf(t *track) *line {
	if t.held.DryRun {
		return &e.lines[2*t.rule+1]
	}
	return &e.lines[2*t.rule]
}

// orderOf is the place of t among those that an action wants at the same instant.
func orderOf(t *track, a *rules.Action) sock.Instant {
	if a.Order == rules.Newest {
		return -t.entered.safe
	}
	return t.entered.safe
}

// release lets as many held sockets go on as the limits leave room for, in the
// rule's order. They are matched afresh before anything is done to them.
func (e *Engine) release(now sock.Instant) {
	for i := range e.lines {
		l := &e.lines[i]
		for !l.empty() {
			t := l.first()
			if l.turns >= e.budgets.of(&e.program.rules[i/2], i%2 == 1).free(now) {
				break
			}
			t.line.leave()
			e.wait(t, now)
			t.turn = true
			l.turns++
		}
	}
}

// endTurn is called when it is clear what becomes of a released socket.
func (e *Engine) endTurn(t *track) {
	if t.turn {
		t.turn = false
		e.lineOf(t).turns--
	}
}

// firstFree is when a limit that holds something back leaves room again.
func (e *Engine) firstFree(now sock.Instant) sock.Instant {
	first := never
	for i := range e.lines {
		l := &e.lines[i]
		if l.empty() || l.turns > 0 {
			continue // an answer comes first
		}
		first = min(first, e.budgets.of(&e.program.rules[i/2], i%2 == 1).frees(now))
	}
	return first
}

// HeldBack sums up what the limits hold back of a rule, or of its dry run.
type HeldBack struct {
	Rule              string
	Kind              rules.Kind
	DryRun            bool
	Began             int // sockets that began to wait since this was last said
	Left              int // of all that waited: that ended by themselves, or are not due any more
	Waiting           int // sockets that wait now
	Limit, LimitOfAll string
}

// summary counts what the limits began to hold back, and what of that came to
// nothing, for one line a minute.
type summary struct {
	at     sock.Instant // when to say it; never: nothing to say
	last   sock.Instant
	counts map[heldBy]*HeldBack
}

// heldBy is what a line of a summary is about.
type heldBy struct {
	rule string
	kind rules.Kind
	dry  bool
}

const (
	summaryEvery = time.Minute
	// summarySettle lets the sockets that fell due together be counted together.
	summarySettle = time.Second
)

func newSummary() summary {
	return summary{at: never, last: sock.Instant(-summaryEvery), counts: make(map[heldBy]*HeldBack)}
}

// of returns the count of what a limit holds back.
func (s *summary) of(rule string, kind rules.Kind, dry bool) *HeldBack {
	by := heldBy{rule, kind, dry}
	if s.counts[by] == nil {
		s.counts[by] = &HeldBack{Rule: rule, Kind: kind, DryRun: dry}
	}
	return s.counts[by]
}

// soon has the summary said, a minute after the last one at the earliest.
func (s *summary) soon(now sock.Instant) {
	if s.at == never {
		s.at = max(now.Add(summarySettle), s.last.Add(summaryEvery))
	}
}

// summarize says what the limits hold back, each minute for as long as they do.
func (e *Engine) summarize(now sock.Instant) {
	if now >= e.summary.at {
		e.sumUp(now)
	}
}

// sumUp says what the limits hold back, by rule.
func (e *Engine) sumUp(now sock.Instant) {
	s := &e.summary
	s.at = never
	for i := range e.lines {
		if l := &e.lines[i]; !l.empty() {
			a := l.first().held
			s.of(a.Rule, a.Kind, a.DryRun).Waiting = len(l.seats)
			s.at = now.Add(summaryEvery)
		}
	}
	for _, held := range s.counts {
		s.last = now
		held.Limit, held.LimitOfAll = windowOf(e.budgets.own, sock.RuleSum(held.Rule)).limitText(), e.budgets.all.limitText()
		e.plan.Held = append(e.plan.Held, *held)
	}
	slices.SortFunc(e.plan.Held, func(a, b HeldBack) int {
		return cmp.Or(cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Kind, b.Kind), cmp.Compare(strconv.FormatBool(a.DryRun), strconv.FormatBool(b.DryRun)))
	})
	clear(s.counts)
}

// limitText is the limit as the rules file says it: 1000/1m, not 1000/1m0s.
func (w *window) limitText() string {
	per := w.limit.Per.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(per, zero) {
			per = per[:len(per)-2]
		}
	}
	return fmt.Sprintf("%d/%s", w.limit.N, per)
}
