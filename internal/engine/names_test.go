package engine

import (
	"errors"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/engine/alerting"
	"github.com/sockdog/sockdog/internal/engine/group"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/walk"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// naming is names with a walk that takes a while.
type naming struct {
	names
	t     *testing.T
	now   sock.Instant
	cost  time.Duration
	err   error
	wants []walk.Want // of the walk under way
	ends  sock.Instant
	walks int
}

func newNaming(t *testing.T) *naming {
	return &naming{names: newNames(), t: t, now: sock.Instant(time.Hour), cost: 20 * time.Millisecond}
}

// about is an alert about sockets with these inodes, and cookies.
func about(isNew bool, inodes ...uint32) Alert {
	a := Alert{Alert: alerting.Alert{New: isNew}}
	for _, inode := range inodes {
		a.Examples = append(a.Examples, group.Example{Inode: inode, Key: sock.Key{Cookie: uint64(inode)}})
	}
	return a
}

// publish returns the alert as it goes out, and after how long. Each socket is held by
// the process with the number of its inode, and 4 by none.
func (n *naming) publish(a Alert) (Alert, time.Duration) {
	n.t.Helper()
	began := n.now
	out := n.take([]Alert{a}, func(w walk.Want) {
		if n.wants == nil {
			n.walks++
			n.ends = n.now.Add(n.cost)
		}
		n.wants = append(n.wants, w)
	}, n.now)
	for out == nil {
		n.now = min(n.wake(), n.ends)
		n.walk()
		out = n.take(nil, nil, n.now)
	}
	if len(out) != 1 {
		n.t.Fatalf("%d alerts went out", len(out))
	}
	return out[0], n.now.Sub(began)
}

// walk ends the walk under way if it is time for that.
func (n *naming) walk() {
	if n.wants == nil || n.now < n.ends {
		return
	}
	in := HoldersFound{Cost: n.cost, Err: n.err, Holders: make(map[uint32][]sock.Holder)}
	for _, w := range n.wants {
		if w.Inode != 4 && n.err == nil {
			in.Holders[w.Inode] = []sock.Holder{{PID: int(w.Inode)}}
		}
	}
	n.walked(n.wants, &in, n.now)
	n.wants, n.ends = nil, never
}

// named counts the examples of which it is known who holds them, or that nobody does.
func named(a *Alert) (n int) {
	for i := range a.Examples {
		if a.Examples[i].Holders != nil {
			n++
		}
	}
	return n
}

// The holders are named by one walk, for which an alert waits, and the next one is
// not made at once.
func TestNames(t *testing.T) {
	n := newNaming(t)
	expect := func(a Alert, want, walks int, waits time.Duration) {
		t.Helper()
		out, waited := n.publish(a)
		if named(&out) != want || n.walks != walks || waited != waits {
			t.Errorf("%d named, after %v and %d walks; want %d, %v and %d", named(&out), waited, n.walks, want, waits, walks)
		}
	}
	expect(about(true, 0, 0), 0, 0, 0)
	expect(about(false, 1, 2, 3, 4), 4, 1, n.cost)
	expect(about(false, 1, 4), 2, 1, 0)
	expect(about(false, 8), 0, 1, 0)
	expect(about(true, 8), 0, 1, 0) // nor for one that is new, at first
	n.now = n.now.Add(namesShare * n.cost)
	expect(about(false, 8), 0, 1, 0)
	expect(about(true, 8), 1, 2, n.cost)
	expect(about(false, 9), 0, 2, 0)
	n.now = n.now.Add(namesEvery)
	expect(about(false, 1, 9), 2, 3, n.cost)
	known := about(true, 10)
	known.Examples[0].Holders = []sock.Holder{{PID: 7}}
	n.now = n.now.Add(namesEvery)
	expect(known, 1, 3, 0) // a walk for what is known
}

// A walk that fails says nothing, and the next one is believed.
func TestNamesOfAFailedWalk(t *testing.T) {
	n := newNaming(t)
	n.err = errors.New("open /proc: too many open files")
	if out, _ := n.publish(about(false, 7)); named(&out) != 0 {
		t.Errorf("named: %+v", out.Examples)
	}
	n.err, n.now = nil, n.now.Add(namesEvery)
	if out, _ := n.publish(about(false, 7)); named(&out) != 1 {
		t.Errorf("not named: %+v", out.Examples)
	}
}

// While a walk through a large /proc takes its time, one alert waits for it and not
// each that follows; and none once the watchdog is to end.
func TestNamesOfALongWalk(t *testing.T) {
	n := newNaming(t)
	n.cost = time.Minute
	waited := time.Duration(0)
	for range 30 {
		out, took := n.publish(about(false, 1))
		waited += took
		if named(&out) != 0 {
			t.Errorf("named: %+v", out.Examples)
		}
	}
	if waited != namesTimeout {
		t.Errorf("30 alerts waited %v for the names, want %v", waited, namesTimeout)
	}
	n.now = n.ends
	n.walk()
	if out, took := n.publish(about(false, 1)); named(&out) != 1 || took > 0 {
		t.Errorf("after %v: %+v", took, out.Examples)
	}

	e := New(Config{})
	want := func(walk.Want) {}
	if out := e.names.take([]Alert{about(true, 1)}, want, 1); out != nil {
		t.Errorf("went out without names: %+v", out)
	}
	if p := e.Step(1, RulesChanged{Program: match.Compile(&rules.Set{})}); len(p.Alerts) != 1 {
		t.Errorf("%d alerts went out to the receivers of the old rules, want the one that waits", len(p.Alerts))
	}
	if out := e.names.take([]Alert{about(true, 1)}, want, 1); out != nil {
		t.Errorf("went out without names: %+v", out)
	}
	if p := e.Step(2, Stop{}); len(p.Alerts) != 1 {
		t.Errorf("%d alerts went out at the end, want the one that waits", len(p.Alerts))
	}
}
