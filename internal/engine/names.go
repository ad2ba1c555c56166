package engine

import (
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/engine/group"
	"github.com/sockdog/sockdog/internal/engine/walk"
	"github.com/sockdog/sockdog/internal/sock"
)

const (
	// namesPatience is how long an alert waits for the names of who holds its sockets:
	// it is to go out within two seconds.
	namesPatience = time.Second
	// namesEvery spaces the walks for the names of who holds new sockets, namesShare
	// keeps them cheap.
	namesEvery = 30 * time.Second
	namesShare = 100
	// maxNames bounds the memory of past walks.
	maxNames = 10_000
)

// names are the holders that were looked up for alerts, and the alerts that wait for
// them.
type names struct {
	known  map[sock.Key][]sock.Holder
	asked  map[sock.Key]bool // looked up by the walk that is to come, or under way
	waited bool              // for that in vain
	held   []Alert           // that wait
	until  sock.Instant      // for so long
	soon   sock.Instant      // when there may be another walk, for an alert that is new
	next   sock.Instant      // and for others
}

func newNames() names {
	return names{known: make(map[sock.Key][]sock.Holder), asked: make(map[sock.Key]bool)}
}

// take takes in alerts and returns those that go out now. Where nobody knows who holds
// their sockets, and a walk is not too much, it wants that looked up, and keeps them
// back for a moment.
func (n *names) take(alerts []Alert, want func(walk.Want), now sock.Instant) (out []Alert) {
	var unnamed []group.Example
	unknown, isNew := false, false
	for i := range alerts {
		isNew = isNew || alerts[i].New
		for _, x := range alerts[i].Examples {
			if x.Holders == nil && x.Inode != 0 {
				unnamed = append(unnamed, x)
				_, known := n.known[x.Key]
				unknown = unknown || !known
			}
		}
	}
	if unknown && len(n.asked) == 0 && (now >= n.next || isNew && now >= n.soon) {
		for _, x := range unnamed {
			if !n.asked[x.Key] {
				n.asked[x.Key] = true
				want(walk.Want{Cookie: x.Key.Cookie, Netns: x.Key.Netns, Inode: x.Inode})
			}
		}
	}
	// Alerts come one after the other, and each would wait as long.
	if len(n.held) == 0 && len(unnamed) > 0 && len(n.asked) > 0 && !n.waited {
		n.until = now.Add(namesPatience)
	}
	n.held = append(n.held, alerts...)
	if len(n.asked) > 0 && now < n.until {
		return nil
	}
	n.waited = len(n.asked) > 0
	return n.release()
}

// wake returns when alerts have waited for long enough.
func (n *names) wake() sock.Instant {
	if len(n.held) == 0 {
		return never
	}
	return n.until
}

// walked takes in what a walk has found for what it was asked.
func (n *names) walked(wants []walk.Want, in *HoldersFound, now sock.Instant) {
	answered := false
	for _, w := range wants {
		if !n.asked[w.Key()] {
			continue
		}
		if !answered && len(n.known) > maxNames {
			clear(n.known)
		}
		answered = true
		delete(n.asked, w.Key())
		if in.Err == nil {
			n.known[w.Key()] = append([]sock.Holder{}, in.Holders[w.Inode]...)
		}
	}
	if answered {
		n.waited, n.soon = false, now.Add(namesShare*in.Cost)
		n.next = max(n.soon, now.Add(namesEvery))
	}
}

// release returns the alerts that wait, with the names that are known.
func (n *names) release() []Alert {
	held := n.held
	n.held = nil
	for i := range held {
		a, own := &held[i], false
		for j := range a.Examples {
			holders, known := n.known[a.Examples[j].Key]
			if !known || a.Examples[j].Holders != nil || a.Examples[j].Inode == 0 {
				continue
			}
			if !own {
				a.Examples, own = slices.Clone(a.Examples), true // the group has them, too
			}
			a.Examples[j].Holders = holders
		}
	}
	return held
}
