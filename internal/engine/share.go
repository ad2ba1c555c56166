package engine

import (
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/engine/limit"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/spin"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// sharePer is the time in which a rule takes no more than its share of the live
// connections that belong together.
const sharePer = 10 * time.Minute

// maxShares is how many are kept of a rule, whether or not anything was taken lately.
const maxShares = 10_000

// together is what live connections have in common that are taken no more than a part of:
// the process that holds them, or else a port of one network namespace.
type together struct {
	process spin.Process // zero: it is a port
	netns   uint32
	port    uint16
	local   bool // it is that of this side
}

// eitherPort are the two that a socket may be counted by.
func eitherPort(s *sock.Socket) [2]together {
	return [2]together{
		{netns: s.ID.Netns, port: s.Dst.Port()},
		{netns: s.ID.Netns, port: s.Src.Port(), local: true},
	}
}

// liveCount is how many live connections a scan has shown, by what they have in common.
type liveCount struct {
	sent  sock.Instant
	count map[together]uint32
}

// add counts a socket, if it is live.
func (l *liveCount) add(s *sock.Socket, process spin.Process) {
	if l == nil || !isLive(s) {
		return
	}
	for _, k := range eitherPort(s) {
		l.count[k]++
	}
	if process != (spin.Process{}) {
		l.count[together{process: process}]++
	}
}

// isLive reports whether a program has the connection, and may still use it.
func isLive(s *sock.Socket) bool {
	return s.Inode != 0 && (ssfilter.Connected &^ ssfilter.Dead).Has(s.State)
}

// portOf returns which of its ports a socket is counted by: the one from which the rule has just
// taken others, and else the one that more connections have. So what is taken of a port does
// not make its share another.
func (e *Engine) portOf(r *ruleState, s *sock.Socket, dry bool, now sock.Instant) together {
	ports, l := eitherPort(s), e.scans.live[r.Class]
	local := l != nil && l.count[ports[1]] > l.count[ports[0]]
	if of := e.hasTaken(r, ports[1], dry, now); of != e.hasTaken(r, ports[0], dry, now) {
		local = of
	}
	if local {
		return ports[1]
	}
	return ports[0]
}

// shareKey is a share of a rule, or of its dry run.
type shareKey struct {
	together
	dry bool
}

// share is how much of what belongs together a rule may take.
type share struct {
	limit.Window
	id   uint64 // on disk
	most float64
	live int          // that the last scan has shown
	sent sock.Instant // when that was begun
}

// take takes in what the last scan has shown; nil: there was none.
func (x *share) take(l *liveCount, k together, most float64) {
	x.most, x.Limit.Per = most, sharePer
	if l != nil {
		x.live, x.sent = int(l.count[k]), l.sent
	}
}

// allow sets how many that is now: of those that the last scan has shown, and those that
// were taken before it and still count. One at least, or a rule could never heal a
// connection that is alone.
func (x *share) allow(now sock.Instant) {
	x.Limit.N = max(1, int(x.most*float64(x.live+x.SpentBefore(x.sent, now))))
}

// sharesOf returns the share that an action on t takes from: of who holds it, where the rule asks
// for that, and else of a port. What is taken counts in the other one as well, if that is known:
// the rule may come to ask for holders, or no more. Nil: there is none, since it takes no live
// connection, or may take all.
func (e *Engine) sharesOf(r *ruleState, action int, t *tracked, s *sock.Socket, dry bool, now sock.Instant) (from, beside *share) {
	if a := &r.Then[action]; a.Most <= 0 || a.Most >= 1 || !isLive(s) {
		return nil, nil
	}
	from = e.share(r, e.portOf(r, s, dry, now), dry)
	if k := (together{process: t.watched()}); k.process != (spin.Process{}) {
		if beside = e.share(r, k, dry); r.NeedsHolders {
			from, beside = beside, from
		}
	}
	return from, beside
}

// share returns the share of what belongs together. Of what no scan has counted yet, one
// connection may be taken.
func (e *Engine) share(r *ruleState, of together, dry bool) *share {
	k := shareKey{of, dry}
	x := r.history.shares[k]
	if x == nil {
		x = &share{id: shareID(r, of), Window: limit.Window{Fixed: true}}
		x.take(e.scans.live[r.Class], of, r.most())
		if !dry {
			for _, s := range e.earlier.shares[x.id] {
				for range s.N {
					x.Spend(s.At.Add(restoreSlack))
				}
			}
			delete(e.earlier.shares, x.id)
		}
		if r.history.shares == nil {
			r.history.shares = make(map[shareKey]*share)
		}
		r.history.shares[k] = x
	}
	return x
}

// with adds the share to what an act counts in; nil: there is none.
func (x *share) with(others limit.Throttle, now sock.Instant) limit.Throttle {
	if x == nil {
		return others
	}
	x.Idle(now) // what has expired is dropped
	return append(slices.Clip(others), &x.Window)
}

// shareID is the number of a share on disk.
func shareID(r *ruleState, of together) uint64 { return sock.RuleSum(fmt.Sprint(r.Name, of)) }

// hasTaken reports whether something counts in the share of what belongs together.
func (e *Engine) hasTaken(r *ruleState, of together, dry bool, now sock.Instant) bool {
	if !dry && len(e.earlier.shares) > 0 && len(e.earlier.shares[shareID(r, of)]) > 0 {
		return !e.share(r, of, dry).Idle(now)
	}
	x := r.history.shares[shareKey{of, dry}]
	return x != nil && !x.Idle(now)
}

// takeLive takes in how many live connections a whole scan has shown.
func (e *Engine) takeLive(l *Scan, now sock.Instant) {
	if l.live == nil {
		return
	}
	l.live.sent = l.sent
	for _, r := range e.rules {
		if !l.of.Has(r.Class) {
			continue
		}
		e.scans.live[r.Class] = l.live
		for k, x := range r.history.shares {
			x.take(l.live, k.together, r.most())
			if len(r.history.shares) > maxShares && l.live.count[k.together] == 0 && x.Idle(now) && !r.history.throttle(k.dry).uses(x) {
				delete(r.history.shares, k)
			}
		}
	}
}

// most is the share of live connections that the rule may take, by whichever of its actions;
// 0: any.
func (r *ruleState) most() (most float64) {
	for i := range r.Then {
		if part := r.Then[i].Most; part > 0 && (most == 0 || part < most) {
			most = part
		}
	}
	return most
}

// uses reports whether something waits for a share, and forgets what does not.
func (h *throttle) uses(x *share) bool {
	for i, w := range h.within {
		if w.share != x {
			continue
		}
		if !w.empty() {
			return true
		}
		h.within = append(h.within[:i:i], h.within[i+1:]...)
		return false
	}
	return false
}

// inner returns the throttle within that of a rule for a share, and for sockets of nobody who
// can be watched; neither: it is that of the rule.
func (e *Engine) inner(r *ruleState, x *share, unseen, dry bool) *throttle {
	outer := r.history.throttle(dry)
	if x == nil && !unseen {
		return outer
	}
	for _, h := range outer.within {
		if h.share == x && h.unseen == unseen {
			return h
		}
	}
	h := &throttle{queue: e.newWaitQueue(), outer: outer, share: x, unseen: unseen, dry: dry}
	if x != nil {
		h.Throttle, h.names = append(h.Throttle, &x.Window), append(h.names, match.Share)
	}
	if unseen {
		h.Throttle, h.names = append(h.Throttle, &r.history.unseen), append(h.names, match.UnseenLimit)
	}
	h.Throttle, h.names = append(h.Throttle, outer.Throttle...), append(h.names, outer.names...)
	outer.within = append(outer.within, h)
	return h
}

// countMatches has the rule act no more while it suddenly means more sockets than it may.
func (e *Engine) countMatches(r *ruleState) {
	e.noteCounted(r)
	most := r.maxMatches()
	over := most > 0 && r.means() > most
	if over == r.troubles.tooMany {
		return
	}
	r.troubles.tooMany, e.problemsAt = over, 0
	r.brake()
	if over {
		e.note(TooManyMatches, slog.String("rule", r.Name), slog.Int("sockets", r.means()), slog.Int("max_matches", most))
	} else {
		e.note(FewMatches, slog.String("rule", r.Name), slog.Int("sockets", r.means()))
	}
}

// noteCounted notes that a scan has counted what the rule means. What has waited for that is
// decided anew.
func (e *Engine) noteCounted(r *ruleState) {
	if r.counted {
		return
	}
	r.counted = true
	for t := range e.tracks.all() {
		if t.phase == waiting && t.is(blocked) && t.of.Has(r.Class) {
			e.wait(t, e.ruledAt)
		}
	}
}

// awaitsCount reports whether it is not known yet if the rule means more sockets than it may:
// it has changed, and sockets are watched that no scan has counted for it.
func (r *ruleState) awaitsCount() bool { return !r.counted && r.maxMatches() > 0 }

// means is how many sockets the rule means, or soon will.
func (r *ruleState) means() int { return int(r.stats.sockets + r.stats.soon) }

// maxMatches is how many it may mean; 0: any number.
func (r *ruleState) maxMatches() (most int) {
	for i := range r.Then {
		if n := r.Then[i].MaxMatches; n > 0 && (most == 0 || n < most) {
			most = n
		}
	}
	return most
}
