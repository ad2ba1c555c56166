package engine

import (
	"fmt"
	"slices"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// record is what was done and said about a connection, and what a limit holds back
// of it. All of which the same is true share one, which does not change.
type record struct {
	marks   []mark
	skipped []skip
	held    held
}

// mark says of an action of a rule that it was done or said, which is once for a
// connection.
type mark struct {
	rule   *ruleState
	action int
	open   bool // it was held back, or failed: still to be done
	asks   bool // it has turned on the keepalives of a socket that had none
}

// skip is what kept a rule from acting, which is counted once for a connection.
type skip struct {
	rule   *ruleState
	reason match.Reason
}

// held is what a limit holds back, and what is told of the socket where no answer
// shows it again.
type held struct {
	rule   *ruleState // nil: nothing
	action int
	by     *throttle // what holds it back
	uid    uint32
	device string
}

// yields reports whether a later rule may take what is held back: a dry run takes nothing,
// nor does a rule that must not act.
func (h *held) yields() bool { return h.by.dry || h.by.ofRule().shut != "" }

// records are the records of all connections, by number; 0 is the empty one.
type records struct {
	list    []*record
	numbers map[string]uint32 // by what they say
	changed map[change]uint32 // what a change makes of one
}

// change is one of: an action is marked, a mark is taken away, a rule was skipped,
// something else is held.
type change struct {
	of   uint32
	kind changeKind
	mark mark
	skip skip
	held held
}

type changeKind uint8

const (
	marks changeKind = iota
	unmarks
	skips
	holds
)

func newRecords() records {
	r := records{numbers: make(map[string]uint32), changed: make(map[change]uint32)}
	r.share(&record{})
	return r
}

// share returns the number of a record that says the same.
func (r *records) share(rec *record) uint32 {
	key := fmt.Sprintf("%#v", *rec)
	n, known := r.numbers[key]
	if !known {
		n = uint32(len(r.list))
		r.numbers[key], r.list = n, append(r.list, rec)
	}
	return n
}

// after is the number of what a change makes of a record.
func (r *records) after(c change) uint32 {
	n, known := r.changed[c]
	if known {
		return n
	}
	rec := *r.list[c.of]
	same := func(m mark) bool { return m.rule == c.mark.rule && m.action == c.mark.action }
	switch c.kind {
	case marks:
		rec.marks = slices.Clone(rec.marks)
		if i := slices.IndexFunc(rec.marks, same); i >= 0 {
			rec.marks[i] = c.mark
		} else {
			rec.marks = append(rec.marks, c.mark)
		}
	case unmarks:
		rec.marks = slices.DeleteFunc(slices.Clone(rec.marks), same)
	case skips:
		rec.skipped = append(slices.Clone(rec.skipped), c.skip)
	case holds:
		rec.held = c.held
	}
	n = r.share(&rec)
	r.changed[c] = n
	return n
}

// recordOf is what was done and said about t. It is not to be changed.
func (e *Engine) recordOf(t *tracked) *record { return e.records.list[t.record] }

// marked returns what was done or said about an action of a rule, or nil.
func (e *Engine) marked(t *tracked, rule *ruleState, action int) *mark {
	rec := e.recordOf(t)
	for i := range rec.marks {
		if m := &rec.marks[i]; m.rule == rule && m.action == action {
			return m
		}
	}
	return nil
}

// mark notes that an action of a rule was done, or, with open, that it was said to
// be held back, or failed.
func (e *Engine) mark(t *tracked, rule *ruleState, action int, open bool) {
	t.record = e.records.after(change{of: t.record, kind: marks, mark: mark{rule: rule, action: action, open: open}})
}

// markAsked notes that an action which was done has turned keepalives on.
func (e *Engine) markAsked(t *tracked, rule *ruleState, action int) {
	if e.marked(t, rule, action) != nil {
		t.record = e.records.after(change{of: t.record, kind: marks, mark: mark{rule: rule, action: action, asks: true}})
	}
}

// keptAlive reports whether the rule itself has turned the keepalives of t on, which does not
// count against a destructive action of it.
func (e *Engine) keptAlive(t *tracked, r *ruleState, a *rules.Action) bool {
	asked := func(m mark) bool { return m.rule == r && m.asks }
	return a.Kind.Destructive && slices.ContainsFunc(e.recordOf(t).marks, asked)
}

// subjectOf returns an answer about t as an action of the rule is decided by it.
func (e *Engine) subjectOf(t *tracked, s *sock.Socket, r *ruleState, a *rules.Action) subject.Subject {
	sub := t.subject(s)
	sub.KeptAlive = e.keptAlive(t, r, a)
	return sub
}

// unmark notes that it is as if the action of a rule had not been done.
func (e *Engine) unmark(t *tracked, rule *ruleState, action int) {
	t.record = e.records.after(change{of: t.record, kind: unmarks, mark: mark{rule: rule, action: action}})
}

// setHeld notes what a limit holds back of t.
func (e *Engine) setHeld(t *tracked, h held) {
	if e.recordOf(t).held != h {
		t.record = e.records.after(change{of: t.record, kind: holds, held: h})
	}
}

// skip counts what keeps a rule from acting on t, once.
func (e *Engine) skip(t *tracked, r *ruleState, why match.Reason) {
	s := skip{r, why}
	if !slices.Contains(e.recordOf(t).skipped, s) {
		t.record = e.records.after(change{of: t.record, kind: skips, skip: s})
		r.history.skips[why]++
	}
}

// spareRecords is how many changes of records are kept in mind beside twice the
// connections: each may be of none any more.
const spareRecords = 1000

// tidyRecords bounds the memory of records.
func (e *Engine) tidyRecords() {
	if len(e.records.changed) > 2*e.tracks.n+spareRecords {
		e.renewRecords(false)
	}
}

// renewRecords keeps of the records what is said about connections, and of rules that
// are in force.
// With new rules, what is held back waits for its rule alone: what is within that begins anew.
func (e *Engine) renewRecords(newRules bool) {
	old, numbers := e.records, make(map[uint32]uint32)
	e.records = newRecords()
	for t := range e.tracks.all() {
		n, known := numbers[t.record]
		if !known {
			rec := *old.list[t.record]
			if newRules && rec.held.by != nil {
				rec.held.by = rec.held.by.ofRule()
			}
			rec.marks = slices.DeleteFunc(slices.Clone(rec.marks), func(m mark) bool { return m.rule.replaced })
			rec.skipped = slices.DeleteFunc(slices.Clone(rec.skipped), func(s skip) bool { return s.rule.replaced })
			n = e.records.share(&rec)
			numbers[t.record] = n
		}
		t.record = n
	}
}
