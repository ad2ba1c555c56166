package rules

import (
	"reflect"
	"testing"
	"time"

	"github.com/sockdog/sockdog/rules/ssfilter"
)

// TestEveryFieldOfAMatchCounts holds what treats a match as a whole to all of its fields:
// who adds one is told here what else has to know of it.
func TestEveryFieldOfAMatchCounts(t *testing.T) {
	yes := true
	dport := ssfilter.Ports(ssfilter.Dst, ssfilter.PortRange{First: 80, Last: 80})
	set := map[string]func(m *Match){
		"States":     func(m *Match) { m.States = ssfilter.Of(ssfilter.CloseWait) },
		"Where":      func(m *Match) { m.Where = dport },
		"Users":      func(m *Match) { m.Users = []uint32{1000} },
		"Netns":      func(m *Match) { m.Netns = []Netns{{Name: "blue"}} },
		"Cgroups":    func(m *Match) { m.Cgroups = []string{"/a"} },
		"Processes":  func(m *Match) { m.Processes = []string{"nginx"} },
		"Cmdlines":   func(m *Match) { m.Cmdlines = []string{"-jar shop"} },
		"Units":      func(m *Match) { m.Units = []string{"nginx.service"} },
		"Containers": func(m *Match) { m.Containers = []string{"app"} },
		"Pods":       func(m *Match) { m.Pods = []string{"payments/*"} },
		"IfKnown":    func(m *Match) { m.Processes, m.IfKnown = []string{"nginx"}, true },
		"InStateFor": func(m *Match) { m.InStateFor = time.Minute },
		"IdleFor":    func(m *Match) { m.IdleFor = time.Minute },
		"StalledFor": func(m *Match) { m.StalledFor = time.Minute },
		"SilentFor":  func(m *Match) { m.SilentFor = time.Minute },
		"Unread":     func(m *Match) { m.Unread = &Threshold{Greater, 1} },
		"InBacklog":  func(m *Match) { m.InBacklog = &yes },
		"Keepalive":  func(m *Match) { m.Keepalive = &yes },
		"Verdicts":   func(m *Match) { m.Verdicts = []Verdict{EOFUnread} },
	}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[Match]()) {
		if set[f.Name] == nil {
			t.Errorf("a match has a field %s: set it here, and see what else must know of it", f.Name)
			continue
		}
		wide := Match{States: ssfilter.AllStates}
		narrow := wide
		set[f.Name](&narrow)
		rule := func(m Match) *Rule { return &Rule{Name: "a", Match: []Match{m}, Then: []Action{{Kind: Log}}} }
		if rule(wide).sum() == rule(narrow).sum() {
			t.Errorf("a rule that changes its %s keeps its fingerprint", f.Name)
		}
		if rule(wide).Text() == rule(narrow).Text() {
			t.Errorf("the text of a rule says nothing of its %s: %s", f.Name, rule(narrow).Text())
		}
		// What an earlier rule takes, by what it matches and from when on.
		takes := func(earlier, later Match) bool {
			one, other := &selection{Match: earlier, filter: earlier.Where}, &selection{Match: later, filter: later.Where}
			one.join()
			other.join()
			return one.covers(other) && one.before(other, 0)
		}
		if !takes(wide, narrow) || !takes(narrow, narrow) {
			t.Errorf("a match with %s is not within all sockets, or not within itself", f.Name)
		}
		if takes(narrow, wide) {
			t.Errorf("a match with %s is taken for one of all sockets", f.Name)
		}
	}
}
