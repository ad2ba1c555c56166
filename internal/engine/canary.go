package engine

import (
	"log/slog"
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/spin"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

const (
	// probeWait is when to see again whether a probe has ended, at the latest.
	probeWait = 10 * time.Second
	// maxCanaries bounds how many are remembered of a rule: of one that is forgotten another
	// is made.
	maxCanaries = 4096
	// mostEnded is how many processes in a row may end during their canaries.
	mostEnded = 3
)

// Probed says what came of a probe.
type Probed struct {
	URL string
	Err error // nil: it was answered well
}

// canary is the trial of an action of a rule with a process: the first few times that it is
// done, and what that does to the process. The others wait for the verdict.
type canary struct {
	rule    *ruleState
	options *rules.Canary
	holders []sock.Holder // none: nobody who could be watched holds the socket, and the probe alone tells
	begun   int           // acts under way, or done
	running int           // of those
	since   sock.Instant  // when the last of them was done; 0: none was
	verdict verdict

	probing      bool  // it waits for what a probe says
	probes       int   // that were answered, or failed
	before, last error // what the first of them said, as the trial began, and what the last said
}

// verdict is what came of a canary.
type verdict uint8

const (
	undecided verdict = iota // nothing yet
	passed                   // nothing that can be seen
	untold                   // nobody can tell
)

// canaryKey is an action of a rule, and the process that it is tried with.
type canaryKey struct {
	kind    *rules.Kind
	process spin.Process // zero: nobody who could be watched
}

// watched is the process by which the canaries of t go; zero: it is not known, or not
// which life of a PID it is.
func (t *tracked) watched() spin.Process { return watchedOf(t.holders) }

func watchedOf(held *subject.Holders) spin.Process {
	if held == nil {
		return spin.Process{}
	}
	for _, h := range held.Processes {
		if h.Start != 0 {
			return spin.Process{PID: h.PID, Start: h.Start}
		}
	}
	return spin.Process{}
}

// canaryOf returns the trial of an action of a rule with who holds t; nil: there is none, as
// the rule says, or because no process notices what becomes of the socket, or nobody who
// could be watched.
func (r *ruleState) canaryOf(t *tracked, action int) *canary {
	a := &r.Then[action]
	if a.Canary == nil || t.Inode == 0 {
		return nil
	}
	key := canaryKey{a.Kind, t.watched()}
	if key.process == (spin.Process{}) && a.Canary.Probe == "" {
		return nil
	}
	c := r.canaries[key]
	if c == nil {
		if len(r.canaries) >= maxCanaries {
			for k, old := range r.canaries {
				if old.verdict != undecided {
					delete(r.canaries, k)
				}
			}
		}
		c = &canary{rule: r, options: a.Canary, holders: t.heldBy()}
		if r.canaries == nil {
			r.canaries = make(map[canaryKey]*canary)
		}
		r.canaries[key] = c
	}
	return c
}

// holdsUntil returns until when a canary holds back what comes after it, or asks for a
// while; 0: it does not.
func (c *canary) holdsUntil(now sock.Instant) sock.Instant {
	switch {
	case c == nil || c.verdict != undecided || c.begun < c.options.First:
		return 0
	case c.probing:
		return now.Add(probeWait)
	case c.running > 0 || c.since == 0:
		return now.Add(c.options.Wait)
	default:
		return max(c.since.Add(c.options.Wait), now.Add(leastWait))
	}
}

// begins notes that one of the first acts is under way.
func (e *Engine) canaryBegins(c *canary) {
	if c == nil || c.verdict != undecided {
		return
	}
	c.begun++
	c.running++
	if c.begun == 1 {
		e.trials = append(e.trials, c)
		e.probes.want(c)
	}
}

// canaryEnds takes in how one of them ended; at 0, it came to nothing.
func (e *Engine) canaryEnds(c *canary, at, now sock.Instant) {
	if c == nil || c.running == 0 {
		return
	}
	c.running--
	c.since = max(c.since, at)
	if at == 0 {
		c.begun--
		e.endTrialWait(c, now)
	}
}

// endTrialWait has everything decided anew that waits for a canary.
func (e *Engine) endTrialWait(c *canary, now sock.Instant) {
	for key, w := range e.awaiting {
		if t := e.tracks.get(key); w.trial == c && t != nil && t.phase == waiting {
			e.wait(t, now)
		}
	}
}

// probes are those of canaries. One batch is under way at a time.
type probes struct {
	wanted   []string
	underWay int
}

// want has the probe of a canary made, if it has one.
func (p *probes) want(c *canary) {
	if url := c.options.Probe; url != "" && !c.probing {
		c.probing = true
		if !slices.Contains(p.wanted, url) {
			p.wanted = append(p.wanted, url)
		}
	}
}

// begin returns what is to be fetched now.
func (p *probes) begin() (urls []string) {
	if p.underWay == 0 {
		urls, p.wanted = p.wanted, nil
		p.underWay = len(urls)
	}
	return urls
}

func (in Probed) apply(e *Engine, _ sock.Instant) {
	e.probes.underWay--
	if slices.Contains(e.probes.wanted, in.URL) {
		return // it was fetched before that was wanted
	}
	for _, c := range e.trials {
		if c.probing && c.options.Probe == in.URL {
			c.take(in.Err)
		}
	}
}

// take takes in what a probe said.
func (c *canary) take(err error) {
	if c.probes == 0 {
		c.before = err
	}
	c.probes++
	c.last, c.probing = err, false
}

// judgeCanaries gives the verdicts that are due.
func (e *Engine) judgeCanaries(now sock.Instant) {
	for _, c := range e.trials {
		e.judge(c, now)
	}
	e.trials = slices.DeleteFunc(e.trials, func(c *canary) bool {
		return c.verdict != undecided || c.begun == 0 || c.rule.replaced || c.rule.stopped() != nil
	})
}

// judge gives the verdict on a canary, if it is due.
func (e *Engine) judge(c *canary, now sock.Instant) {
	r := c.rule
	if c.rule.replaced || r.stopped() != nil || c.since == 0 {
		return
	}
	seen, ended := e.usages.Seen(c.holders, c.since)
	switch {
	case e.usages.Spins(c.holders, r.spinRule()):
		e.stopRule(r, match.HolderSpins, c.holder(), now)
		e.endTrialWait(c, now)
		return
	case c.running > 0 || now < c.since.Add(c.options.Wait) || c.probing:
		return
	case c.options.Probe != "" && c.probes < 2:
		e.probes.want(c)
		return
	case c.probes > 0 && c.last != nil && c.before == nil:
		e.stopRule(r, match.ProbeFailed, c.holder(), now, slog.String("error", c.last.Error()))
		e.endTrialWait(c, now)
		return
	}
	attrs := []slog.Attr{slog.String("rule", r.Name)}
	if h := c.holder(); h.PID != 0 {
		attrs = append(attrs, slog.Int("pid", h.PID), slog.String("comm", h.Comm))
	}
	wellProbed := c.probes > 0 && c.last == nil
	switch {
	case ended && r.history.ended+1 == mostEnded:
		r.history.ended = 0
		e.stopRule(r, match.HolderEnded, c.holder(), now)
	case ended:
		r.history.ended++
		c.verdict = passed // there is nothing more of it to kill
		e.note(CanaryEnded, attrs...)
	case wellProbed, seen && c.probes == 0:
		r.history.ended = 0
		c.verdict = passed
		e.note(CanaryPassed, attrs...)
	default:
		c.verdict = untold
		e.noteUntold(r, attrs...)
	}
	e.endTrialWait(c, now)
}

// holder is who is named for a canary.
func (c *canary) holder() sock.Holder {
	if len(c.holders) == 0 {
		return sock.Holder{}
	}
	return c.holders[0]
}

// noteUntold says once for a rule that nobody can tell what its acts do to a program.
func (e *Engine) noteUntold(r *ruleState, attrs ...slog.Attr) {
	if !r.untold {
		r.untold = true
		e.note(CanaryUntold, append(attrs, slog.String("limit", r.history.unseen.String()))...)
	}
}

// nextVerdict returns when a verdict is due.
func (e *Engine) nextVerdict(now sock.Instant) sock.Instant {
	next := never
	for _, c := range e.trials {
		if c.since != 0 && c.running == 0 && !c.probing {
			next = min(next, max(c.since.Add(c.options.Wait), now.Add(leastWait)))
		}
	}
	return next
}

// slowly reports whether no more than a part of the limit may be done to t by an action,
// because nobody can tell what that does to its program.
func (r *ruleState) slowly(t *tracked, action int) bool {
	if r.Then[action].Canary == nil || t.Inode == 0 {
		return false
	}
	c := r.canaryOf(t, action)
	return c == nil || c.verdict == untold
}
