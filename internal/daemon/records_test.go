package daemon

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/group"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/engine/track"
	"github.com/sockdog/sockdog/internal/journal"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/sockettable"
	"github.com/sockdog/sockdog/rules"
)

// A record tells the network namespace of its socket, of its group, or the one that is
// watched alone; where there are several, a record about all of them tells none.
func TestNetnsOfRecords(t *testing.T) {
	p := engine.Plan{
		Report: []engine.Action{{Kind: rules.Kill, Socket: sock.Socket{ID: sock.ID{Netns: 7}, NetnsNames: "/red/"}}},
		Transitions: []engine.Transition{
			{Transition: group.Transition{To: group.Firing, Group: []subject.Label{{Name: "netns", Value: "8"}}}},
			{Transition: group.Transition{To: group.Firing}},
		},
		Held: []engine.HeldBack{{Kind: rules.Kill}},
	}
	for alone, want := range map[uint32][]string{
		0:    {"7 red", "8 blue", "", ""},
		4711: {"7 red", "8 blue", "4711", "4711"},
	} {
		var got []string
		names := func(inode uint32) string { return map[uint32]string{8: "blue"}[inode] }
		for _, r := range recordsOf(&p, names, alone, 0, time.Now()) {
			got = append(got, strings.TrimSpace(r.Netns+" "+r.NetnsName))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("netns, where %d is watched alone (-want +got):\n%s", alone, diff)
		}
	}
}

// A record says where the first of the processes that hold the socket belongs, by the best
// names that are known.
func TestOwnerOfRecords(t *testing.T) {
	const id = "fa7f0ec4fbcbb70c69565a5b2d269926e04ec5601dff59235199d6e60198e95c"
	is := func(text string) sock.Fact { return sock.Fact{Text: text, Known: true} }
	for name, test := range map[string]struct {
		owner                *sock.Owner
		unit, container, pod string
	}{
		"nothing is known": {},
		"a service":        {&sock.Owner{Unit: is("a.service"), ContainerID: is(""), PodUID: is("")}, "a.service", "", ""},
		"names":            {&sock.Owner{Unit: is("x.scope"), ContainerID: is(id), PodUID: is("1"), Container: "app", Pod: "shop/web"}, "x.scope", "app", "shop/web"},
		"no names":         {&sock.Owner{ContainerID: is(id), PodUID: is("1")}, "", id[:12], "1"},
	} {
		held := []sock.Holder{{PID: 7, Comm: "a", Owner: test.owner}, {PID: 8, Owner: &sock.Owner{Unit: is("other.service")}}}
		r := recordOf(&engine.Action{Kind: rules.Kill, Holders: held}, time.Now())
		if got, want := [3]string{r.Unit, r.Container, r.Pod}, [3]string{test.unit, test.container, test.pod}; got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
		o := sockettable.ObjectOf(&sock.Socket{}, track.Age{}, held)
		if got, want := [3]string{o.Unit, o.Container, o.Pod}, [3]string{test.unit, test.container, test.pod}; got != want {
			t.Errorf("%s: in -o json %q, want %q", name, got, want)
		}
	}
}

// A record names all of several processes that hold a socket, but no more than it has room for.
func TestHoldersOfRecords(t *testing.T) {
	var held []sock.Holder
	for pid := range journal.MostHolders + 1 {
		held = append(held, sock.Holder{PID: 100 + pid, Comm: "worker"})
		r := recordOf(&engine.Action{Kind: rules.Kill, Holders: held}, time.Now())
		want := len(held)
		if want == 1 {
			want = 0
		}
		if want = min(want, journal.MostHolders); len(r.Holders) != want {
			t.Errorf("held by %d: the record names %d, want %d", len(held), len(r.Holders), want)
		}
		for i, h := range r.Holders {
			if h != (journal.Holder{PID: held[i].PID, Comm: "worker"}) {
				t.Errorf("the %d. is %+v", i, h)
			}
		}
	}
}
