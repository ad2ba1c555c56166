package e2e

import (
	"fmt"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/nstest"
)

// Commands take the exact ages of a running sockdog: of a socket in another network namespace,
// whose keepalives hide from sock_diag since when it has been stuck.
func TestExactAgesOfCommands(t *testing.T) {
	needEvents(t)
	check(t, nstest.LoopbackUp())
	const daemon, old = "127.0.0.1:9797", 4 * time.Second
	p := newPlace(t)
	w := watch(t, `
settings: {namespaces: all}
rules: [{name: later, match: {state: close-wait, in_state_for: 1h}, then: log}]
`, by("--listen", daemon), func(c *exec.Cmd) { c.SysProcAttr = &syscall.SysProcAttr{} }) // where the commands are
	w.says("sockets come from events")
	s := p.do("keepalive")
	stuck := now() // at the latest
	time.Sleep(old)

	type socket struct {
		Netns string
		Age   float64 `json:"in_state_for"`
		Bound bool
	}
	told := func(what string, args ...string) socket {
		t.Helper()
		all := tells[socket](t, append(args, "--namespaces", "-o", "json", "state", "close-wait")...)
		if len(all) != 1 || all[0].Netns != fmt.Sprint(p.netns) {
			t.Fatalf("%s tells of %+v, want one socket, in %d", what, all, p.netns)
		}
		return all[0]
	}
	if alone := told("list", "list", "--daemon", "off"); !alone.Bound || alone.Age >= old.Seconds() {
		t.Errorf("without the daemon list tells of %+v, want a lower bound", alone)
	}
	for _, command := range []string{"list", "why"} {
		began := now().Sub(stuck).Truncate(time.Millisecond)
		one := told(command, command, "--daemon", daemon)
		if least, most := began.Seconds(), now().Sub(s.After).Seconds(); one.Bound || one.Age < least || one.Age > most {
			t.Errorf("%s tells of %+v, want an exact age of %v to %v s", command, one, least, most)
		}
	}
	kill := func(daemon string) ([]byte, error) {
		return exec.Command(sockdog, "kill", "--yes", "--older-than", old.String(), "--daemon", daemon, "--netns", fmt.Sprint(p.netns), "state", "close-wait").CombinedOutput()
	}
	if said, err := kill("off"); err == nil {
		t.Errorf("without the daemon kill does not say that it cannot judge: %s", said)
	}
	if p.died(s) != 0 {
		t.Error("what could not be judged was killed")
	}
	if said, err := kill(daemon); err != nil {
		t.Errorf("kill: %v: %s", err, said)
	}
	p.until("death of the socket", func() bool { return p.died(s) != 0 })
}
