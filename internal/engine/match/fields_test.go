package match

import (
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/engine/track"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// TestEveryFieldOfAMatchCounts holds what treats a match as a whole to all of its fields:
// who adds one is told here what else has to know of it.
func TestEveryFieldOfAMatchCounts(t *testing.T) {
	yes := true
	// Each with what the socket below lacks.
	set := map[string]func(m *rules.Match){
		"States":     func(m *rules.Match) { m.States = ssfilter.Of(ssfilter.CloseWait) },
		"Where":      func(m *rules.Match) { m.Where = ssfilter.Ports(ssfilter.Dst, ssfilter.PortRange{First: 80, Last: 80}) },
		"Users":      func(m *rules.Match) { m.Users = []uint32{1000} },
		"Netns":      func(m *rules.Match) { m.Netns = []rules.Netns{{Inode: 7}} },
		"Cgroups":    func(m *rules.Match) { m.Cgroups = []string{"/a"} },
		"Processes":  func(m *rules.Match) { m.Processes = []string{"nginx"} },
		"Cmdlines":   func(m *rules.Match) { m.Cmdlines = []string{"-jar shop"} },
		"Units":      func(m *rules.Match) { m.Units = []string{"nginx.service"} },
		"Containers": func(m *rules.Match) { m.Containers = []string{"app"} },
		"Pods":       func(m *rules.Match) { m.Pods = []string{"payments/*"} },
		"IfKnown":    func(m *rules.Match) { m.Processes, m.IfKnown = []string{"nginx"}, true },
		"InStateFor": func(m *rules.Match) { m.InStateFor = time.Minute },
		"IdleFor":    func(m *rules.Match) { m.IdleFor = time.Minute },
		"StalledFor": func(m *rules.Match) { m.StalledFor = time.Minute },
		"SilentFor":  func(m *rules.Match) { m.SilentFor = time.Minute },
		"Unread":     func(m *rules.Match) { m.Unread = &rules.Threshold{Op: rules.Greater, Number: 1} },
		"InBacklog":  func(m *rules.Match) { m.InBacklog = &yes },
		"Keepalive":  func(m *rules.Match) { m.Keepalive = &yes },
		"Verdicts":   func(m *rules.Match) { m.Verdicts = []rules.Verdict{rules.EOFUnread} },
	}
	end := netip.MustParseAddrPort("192.0.2.1:443")
	s := &sock.Socket{Conn: ssfilter.Conn{State: ssfilter.TimeWait, Src: end, Dst: end}, Inode: 1}
	never := subject.Subject{Socket: s}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[rules.Match]()) {
		if set[f.Name] == nil {
			t.Errorf("a match has a field %s: set it here, and see what else must know of it", f.Name)
			continue
		}
		alone := rules.Match{States: ssfilter.Of(ssfilter.TimeWait)}
		m := alone
		set[f.Name](&m)
		counterOnly := func(m rules.Match) bool {
			when := []rules.Condition{{Metric: rules.Count, Op: rules.Greater, Number: 1}}
			return newRule(&rules.Rule{Match: []rules.Match{m}, When: when}, 0).CounterOnly
		}
		if !counterOnly(alone) || counterOnly(m) {
			t.Errorf("a counter tells of a state: %v; of %s: %v", counterOnly(alone), f.Name, counterOnly(m))
		}
		stays := f.Name == "Netns" || f.Name == "Cgroups"
		if apart := stays || f.Name == "States" || f.Name == "Where" || IsTimed(&m); apart == !bare(&m) {
			t.Errorf("a match with %s is bare: %v", f.Name, bare(&m))
		}
		const now = sock.Instant(time.Hour)
		at := track.Bound{Safe: now, Early: now}
		times := track.Times{Entered: at, Quiet: at, Heard: at, Queued: sock.Never}
		if Any([]rules.Match{m}, never) == ssfilter.True && DueAt(&m, &times) <= now {
			t.Errorf("a socket without %s meets the match", f.Name)
		}
	}
}
