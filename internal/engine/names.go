package engine

import (
	"iter"
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/engine/group"
	"github.com/sockdog/sockdog/internal/engine/walk"
	"github.com/sockdog/sockdog/internal/sock"
)

const (
	// namesTimeout is how long an alert waits for the names of who holds its sockets:
	// it is to go out within two seconds.
	namesTimeout = time.Second
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
	asked  int          // looked up by the walk that is to come, or under way
	waited bool         // for that in vain
	held   []Alert      // that wait
	until  sock.Instant // for so long
	soon   sock.Instant // when there may be another walk, for an alert that is new
	next   sock.Instant // and for others
}

func newNames() names { return names{known: make(map[sock.Key][]sock.Holder)} }

// take takes in alerts and returns those that go out now. Where nobody knows who holds
// their sockets, and a walk is not too much, it wants that looked up, and keeps them
// back for a moment.
func (n *names) take(alerts []Alert, want func(walk.Want), now sock.Instant) (out []Alert) {
	all, unknown, isNew := 0, false, false
	for i := range alerts {
		isNew = isNew || alerts[i].New
		for x := range unnamed(alerts[i].Examples) {
			_, known := n.known[x.Key]
			all, unknown = all+1, unknown || !known
		}
	}
	if unknown && n.asked == 0 && (now >= n.next || isNew && now >= n.soon) {
		n.asked = all
		for i := range alerts {
			for x := range unnamed(alerts[i].Examples) {
				want(walk.Want{Cookie: x.Key.Cookie, Netns: x.Key.Netns, Inode: x.Inode, Alert: true})
			}
		}
	}
	// Alerts come one after the other, and each would wait as long.
	if len(n.held) == 0 && all > 0 && n.asked > 0 && !n.waited {
		n.until = now.Add(namesTimeout)
	}
	if len(n.held) > 0 {
		alerts = append(n.held, alerts...)
	}
	n.held = alerts
	if n.asked > 0 && now < n.until {
		return nil
	}
	n.waited = n.asked > 0
	return n.release()
}

// unnamed yields those of whose holders nothing is known.
func unnamed(examples []group.Example) iter.Seq[*group.Example] {
	return func(yield func(*group.Example) bool) {
		for i := range examples {
			if x := &examples[i]; x.Holders == nil && x.Inode != 0 && !yield(x) {
				return
			}
		}
	}
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
		if !w.Alert {
			continue
		}
		if !answered && len(n.known) > maxNames {
			clear(n.known)
		}
		answered = true
		n.asked--
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
		held[i].Examples = withHolders(held[i].Examples, func(x *group.Example) []sock.Holder { return n.known[x.Key] })
	}
	return held
}

// withHolders puts to those examples of whose holders nothing is known what is known by
// now; nil: nothing. Others may read them as they are.
func withHolders(examples []group.Example, known func(*group.Example) []sock.Holder) []group.Example {
	own := false
	for i := range examples {
		x := &examples[i]
		if x.Holders != nil || x.Inode == 0 {
			continue
		}
		if holders := known(x); holders != nil {
			if !own {
				examples, own = slices.Clone(examples), true
			}
			examples[i].Holders = holders
		}
	}
	return examples
}
