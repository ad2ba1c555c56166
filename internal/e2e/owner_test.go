package e2e

import (
	"fmt"
	"testing"
	"time"
)

// In a PID namespace of its own, as in a pod that shares its processes, a rule that names
// a program heals what that alone is seen to hold, and nothing else.
func TestByProcessInAPIDNamespace(t *testing.T) {
	need(t)
	p := newPlace(t)
	w := watch(t, fmt.Sprintf(`
settings: {namespaces: all}
rules:
  - {name: other, match: {state: close-wait, sport: %d, user: root, in_state_for: %v, process: other}, then: kill}
  - {name: leaky, match: {state: close-wait, sport: %[1]d, user: root, in_state_for: %[2]v, process: e2e.test}, then: kill}
`, port, bound), by("--source", "sock_diag"))
	shared, plain := p.do("shared"), p.do("plain")
	if late := p.dies(plain, bound); late > tooLateSockDiag {
		t.Errorf("killed %v late", late)
	}
	if told := w.await("record", func(l line) bool { return l.Cookie == plain.Stuck && l.Result == "done" }); told.Rule != "leaky" || told.PID != p.cmd.Process.Pid {
		t.Errorf("killed by %q, held by %d", told.Rule, told.PID)
	}
	if rest := bound - now().Sub(plain.After) + bound; rest > 0 {
		time.Sleep(rest) // twice as long as the other, it lives
	}
	if p.fine(); p.died(shared) != 0 {
		t.Error("what a sleep holds, too, was killed")
	}
}
