package daemon

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/group"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sock"
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
