package engine

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// Where all network namespaces are watched it is shown in which of them sockets match, by the last
// scan; where one is, that tells nothing.
func TestSocketsByNetns(t *testing.T) {
	for namespaces, want := range map[rules.Namespaces][]NetnsSockets{
		rules.AllNamespaces: {{Netns: 8, Sockets: 3}, {Netns: 7, Sockets: 2}},
		"":                  nil,
	} {
		b := newBench(t)
		for cookie := uint64(1); cookie <= 6; cookie++ {
			age := time.Hour
			if cookie == 6 {
				age = 0 // which does not match in full
			}
			b.add(cookie, age, func(s *sim.Socket) { s.ID.Netns = 7 + uint32(cookie%2) })
		}
		s := eachSecond(killing("dry", dryRun))
		s.Settings.Namespaces = namespaces
		b.rule(s)
		b.until(5 * time.Second)
		if diff := cmp.Diff(want, b.e.Overview(b.now).Rules[0].InNetns); diff != "" {
			t.Errorf("namespaces %q (-want +got):\n%s", namespaces, diff)
		}
	}
}

// Ten namespaces are named, with their names, and the others are one.
func TestMostNetns(t *testing.T) {
	var c netnsCount
	var want []NetnsSockets
	for netns := uint32(1); netns <= 12; netns++ {
		for range 20 - netns {
			c.add(&sock.Socket{ID: sock.ID{Netns: netns}, NetnsNames: fmt.Sprintf("/pod%d/", netns)})
		}
		want = append(want, NetnsSockets{netns, fmt.Sprint("pod", netns), int(20 - netns)})
	}
	c.add(&sock.Socket{ID: sock.ID{Netns: 12}})
	want = append(want[:10], NetnsSockets{Sockets: 9 + 8 + 1})
	if diff := cmp.Diff(want, c.most()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
