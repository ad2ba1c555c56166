package e2e

import (
	"fmt"
	"testing"
	"time"
)

// bound is that of the rules here.
const bound = 3 * time.Second

var allLeaks = fmt.Sprintf(`
settings: {namespaces: all}
rules: [{name: leak, match: {state: close-wait, sport: %d, user: root, in_state_for: %v}, then: [{kill: {canary: off}}]}]
`, port, bound)

// tooLate is what only a defect, or a machine that stands still, reaches: by events a kill
// is late by a millisecond, by sock_diag by as much as cpu_budget has scans apart.
const (
	tooLate         = time.Second
	tooLateSockDiag = 45 * time.Second
)

// One daemon heals what leaks in five namespaces, each in another way, spares what is in
// use or was never accepted, and names each.
func TestFiveNamespaces(t *testing.T) {
	for _, test := range []struct {
		source, says string
		need         func(*testing.T)
		tooLate      time.Duration
	}{
		{"auto", "sockets come from events", needEvents, tooLate},
		{"sock_diag", "watching", need, tooLateSockDiag},
	} {
		t.Run(test.source, func(t *testing.T) {
			test.need(t)
			kinds := []string{"plain", "keepalive", "shared", "unaccepted", "half-closed"}
			places := make(map[string]*place)
			for _, kind := range kinds {
				places[kind] = newPlace(t)
			}
			w := watch(t, allLeaks, by("--source", test.source))
			w.says(test.says)
			stuck := make(map[string]report)
			for _, kind := range kinds {
				stuck[kind] = places[kind].do(kind)
			}
			for _, kind := range kinds[:3] {
				p, s := places[kind], stuck[kind]
				late := p.dies(s, bound)
				t.Logf("%s: killed %v late", kind, late)
				if late > test.tooLate {
					t.Errorf("%s: killed %v late", kind, late)
				}
				told := w.await("record", func(l line) bool { return l.Cookie == s.Stuck && l.Result == "done" })
				if told.Netns != fmt.Sprint(p.netns) || told.PID != p.cmd.Process.Pid && kind != "shared" || told.Comm == "" {
					t.Errorf("%s: the record has netns %s, pid %d, comm %q, want %d and %d", kind, told.Netns, told.PID, told.Comm, p.netns, p.cmd.Process.Pid)
				}
			}
			shared := w.await("record", func(l line) bool { return l.Cookie == stuck["shared"].Stuck && l.Result == "done" })
			if held := shared.Holders; len(held) != 2 || held[0] == held[1] || held[0].PID != places["shared"].cmd.Process.Pid && held[1].PID != places["shared"].cmd.Process.Pid {
				t.Errorf("shared: the record names %+v, want process %d and its child", held, places["shared"].cmd.Process.Pid)
			}
			// Twice as long as the others, those that are spared live.
			if rest := bound - now().Sub(stuck["half-closed"].After) + bound; rest > 0 {
				time.Sleep(rest)
			}
			for _, kind := range kinds[3:] {
				places[kind].fine()
				if at := places[kind].died(stuck[kind]); stuck[kind].Stuck != 0 && at != 0 {
					t.Errorf("%s was killed", kind)
				}
			}
			// What waited in the accept queue is accepted at last: now its time counts.
			s := places["unaccepted"].do("accept")
			t.Logf("accepted: killed %v late", places["unaccepted"].dies(s, bound))
			w.await("record", func(l line) bool { return l.Cookie == s.Stuck && l.Result == "done" })
			if n := w.count("kill done"); n != 4 {
				t.Errorf("%d kills, want 4", n)
			}
		})
	}
}
