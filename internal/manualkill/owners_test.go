package manualkill

import (
	"context"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/selection"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Of the sockets that are selected, those die that are held by who is meant for certain, and
// by nobody else.
func TestOwners(t *testing.T) {
	java, nginx := sock.Holder{PID: 2, Comm: "java", Exe: "java"}, sock.Holder{PID: 3, Comm: "nginx", Exe: "nginx"}
	for _, test := range []struct {
		name     string
		holders  []sock.Holder
		complete bool
		closed   bool // its program closes it before it is destroyed
		want     engine.Result
	}{
		{name: "the only holder", holders: []sock.Holder{java}, complete: true, want: engine.Done},
		{name: "another", holders: []sock.Holder{nginx}, complete: true},
		{name: "another, and not all could be read", holders: []sock.Holder{nginx}},
		{name: "another as well", holders: []sock.Holder{java, nginx}, complete: true},
		{name: "nobody", complete: true},
		{name: "not all could be read", holders: []sock.Holder{java}, want: LeftAlone},
		{name: "none could be read", want: LeftAlone},
		{name: "closed meanwhile", holders: []sock.Holder{java}, complete: true, closed: true, want: engine.Changed},
	} {
		t.Run(test.name, func(t *testing.T) {
			var owners selection.Owners
			if err := owners.Add("process", "ja*"); err != nil {
				t.Fatal(err)
			}
			k := &kernel{sockets: map[uint64]sock.Socket{7: stuck(7)}}
			if test.closed {
				k.onAsk = func(k *kernel) { k.sockets[7] = with(stuck(7), func(s *sock.Socket) { s.Inode = 0 }) }
			}
			r := Request{Query: sock.Query{States: ssfilter.AllStates}, Owners: &owners, Precision: time.Millisecond, Protect: []rules.Match{}}
			targets, _, err := r.Find(k, clock)
			if err != nil {
				t.Fatal(err)
			}
			found := engine.HoldersFound{Holders: map[uint32][]sock.Holder{7: test.holders}, Complete: test.complete}
			targets = r.Own(targets, found)
			r.Resolve(Pending(targets), found)
			r.Destroy(context.Background(), Pending(targets), k, func() (Destroyer, error) { return k, nil })
			var got engine.Result
			if len(targets) > 0 {
				got = targets[0].Result
			}
			if got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

// What is of another network namespace, control group or user is not selected, and not counted among
// what is too young; what has left meanwhile stays.
func TestOwnersByPlace(t *testing.T) {
	at := func(netns uint32, cgroup string) sock.Socket {
		return with(stuck(7), func(s *sock.Socket) { s.ID.Netns, s.Cgroup = netns, cgroup })
	}
	of := func(user, inode uint32) sock.Socket {
		return with(stuck(7), func(s *sock.Socket) { s.UID, s.Inode = user, inode })
	}
	for _, test := range []struct {
		name       string
		key, value string
		seen, then sock.Socket
		want       engine.Result
	}{
		{"of the namespace", "netns", "100", at(100, ""), at(100, ""), engine.Done},
		{"of another namespace", "netns", "100", at(101, ""), at(101, ""), ""},
		{"of a control group below", "cgroup", "/app", at(1, "/app/worker"), at(1, "/app/worker"), engine.Done},
		{"of another control group", "cgroup", "/app", at(1, "/apple"), at(1, "/apple"), ""},
		{"of none that is known", "cgroup", "/app", at(1, ""), at(1, ""), LeftAlone},
		{"of the user", "user", "33", of(33, 7), of(33, 7), engine.Done},
		{"of another user", "user", "33", of(34, 7), of(34, 7), ""},
		{"of nobody, of whom the kernel says root", "user", "0", of(0, 0), of(0, 0), ""},
		{"of another user meanwhile", "user", "33", of(33, 7), of(34, 7), engine.Changed},
		{"of another control group meanwhile", "cgroup", "/app", at(1, "/app"), at(1, "/apple"), engine.Changed},
	} {
		t.Run(test.name, func(t *testing.T) {
			var owners selection.Owners
			if err := owners.Add(test.key, test.value); err != nil {
				t.Fatal(err)
			}
			k := &kernel{sockets: map[uint64]sock.Socket{7: test.seen}}
			k.onAsk = func(k *kernel) {
				if k.asked == 1 {
					k.sockets[7] = test.then
				}
			}
			r := Request{Query: sock.Query{States: ssfilter.AllStates}, Owners: &owners, Precision: time.Millisecond, Protect: []rules.Match{}}
			targets, _, err := r.Find(k, clock)
			if err != nil {
				t.Fatal(err)
			}
			targets = r.Own(targets, engine.HoldersFound{})
			r.Destroy(context.Background(), Pending(targets), k, func() (Destroyer, error) { return k, nil })
			var got engine.Result
			if len(targets) > 0 {
				got = targets[0].Result
			}
			if got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
			r.OlderThan = 24 * time.Hour
			if _, passed, err := r.Find(&kernel{sockets: map[uint64]sock.Socket{7: test.seen}}, clock); err != nil || test.want == "" && passed != (Passed{}) {
				t.Errorf("passed over %+v, error %v", passed, err)
			}
		})
	}
}

// What nobody holds is nobody's.
func TestOwnersOfOrphan(t *testing.T) {
	var owners selection.Owners
	if err := owners.Add("pod", "*/*"); err != nil {
		t.Fatal(err)
	}
	orphan := with(stuck(1), func(s *sock.Socket) { s.Inode = 0 })
	if got := owners.Mean(&orphan, nil); got != ssfilter.False {
		t.Errorf("an orphan: %v", got)
	}
	held := stuck(1)
	if got := owners.Mean(&held, nil); got != ssfilter.Unknown {
		t.Errorf("one of which nobody has looked who holds it: %v", got)
	}
}
