package group

import (
	"time"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// Acts are what was done about a group as a whole.
type Acts struct {
	Done uint16       // which of the rule's actions since the group fires, a bit for each of Once
	Held uint16       // of which of them it is said that something holds them back, the same
	Last sock.Instant // when one was done last, in whichever firing; 0: none was remembered
	// From is from when the actions' after counts: when the group began to fire, or later by
	// what was left of its cooldown.
	From sock.Instant
	// Again is until when nothing more is tried, because something was not done after all.
	Again sock.Instant
	// anew says that a process was acted on: for begins anew. The condition has been shown to
	// hold since then; Never: not yet.
	anew  bool
	since sock.Instant
}

// begin notes that the group begins to fire.
func (a *Acts) begin(cooldown time.Duration, now sock.Instant) {
	a.Done, a.Held, a.From, a.anew, a.Again = 0, 0, now, false, 0
	if a.Last != 0 {
		a.From = max(now, a.Last.Add(cooldown))
	}
}

// sample takes in whether the condition of the group holds, which fires.
func (a *Acts) sample(r *rules.Rule, holds bool, sent, got sock.Instant) {
	switch {
	case !a.anew:
	case !holds:
		a.since = sock.Never
	case a.since == sock.Never:
		a.since = got
	case sent.Sub(a.since) >= r.For:
		a.anew = false
	}
}

// Note notes that an action is done now. After one on a process, for begins anew.
func (a *Acts) Note(bit uint16, onProcess bool, now sock.Instant) {
	a.Done |= bit
	a.Last = now
	if onProcess {
		a.anew, a.since = true, sock.Never
	}
}

// Unnote notes that an action was not done after all, before whose Note all was as before.
func (a *Acts) Unnote(bit uint16, before *Acts, again sock.Instant) {
	a.Done &^= bit
	a.Last, a.Again, a.anew = before.Last, again, before.anew
}

// Settled reports whether the condition has held for as long as the rule wants since a
// process was last acted on.
func (a *Acts) Settled() bool { return !a.anew }

// cools reports whether what was done must be remembered though the group is quiet.
func (a *Acts) cools(r *rules.Rule, now sock.Instant) bool {
	return a.Last != 0 && r.Cooldown > 0 && now < a.Last.Add(r.Cooldown)
}

// FiringGroup returns the group if it fires, as far as that may be acted on: one that a scan of this
// run has shown no longer ago than trusted. Nil: it does not, or is not known to.
func (rg *Set) FiringGroup(key Key, now sock.Instant, trusted time.Duration) *Group {
	if g := rg.groups[key]; g != nil && g.Firing != sock.Never && !g.stale && rg.Trusted(now, trusted) {
		return g
	}
	return nil
}

// Trusted reports whether a scan of this run has counted the groups, no longer ago than
// that.
func (rg *Set) Trusted(now sock.Instant, trusted time.Duration) bool {
	return rg.scanned != 0 && now.Sub(rg.scanned) <= trusted
}

// Group is what is remembered of a group; nil: nothing.
func (rg *Set) Group(key Key) *Group { return rg.groups[key] }

// restore takes over what an earlier run has done about the group. What is put back when
// sockdog ends is to be done again.
func (a *Acts) restore(r *match.Rule, k *sock.Group) {
	a.Last, a.From, a.Done = k.Acted, max(k.Firing, k.ActsFrom), k.ActsDone
	bit := uint16(1)
	for j := range r.Then {
		kind := r.Then[j].Kind
		if !kind.OncePerFiring() {
			continue
		}
		if kind.Reverts {
			a.Done &^= bit
		}
		if kind.On == rules.OnProcess && a.Done&bit != 0 {
			a.anew, a.since = true, sock.Never
		}
		bit <<= 1
	}
}
