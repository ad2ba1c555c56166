package daemon_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/daemon"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/status"
	"github.com/sockdog/sockdog/rules"
)

// Why a rule leaves a socket alone is shown, under a name that is known, and when
// the sockets were counted.
func TestShown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	current := w.show()
	s := w.leak(w.listen(nstest.V4, 5432))
	w.watch("protect: [sport = 5432]\n" + often + "rules: [{name: leak, match: {state: close-wait, in_state_for: 1s}, then: kill}]\n")
	w.until("a socket that is spared", func() bool {
		rules := current().Rules
		return len(rules) == 1 && rules[0].HeldBack["protected"] == 1
	})
	w.until("a count of the sockets", func() bool {
		s := current()
		return s.Sockets["close-wait"] == 1 && s.Time.Sub(s.SocketsAt) < 10*time.Second && s.SocketsEverySeconds == 5
	})
	for reason := range current().Rules[0].HeldBack {
		if !slices.Contains(status.HeldReasons, reason) {
			t.Errorf("the reason %q is not among those that are exported", reason)
		}
	}
	w.lives(s, unix.BPF_TCP_CLOSE_WAIT)
}

// What is wrong with a rules file is shown a mistake a line, and no more of them
// than somebody reads.
func TestMistakes(t *testing.T) {
	t.Parallel()
	bad := func(n int) error {
		text := "rules:\n"
		for i := range n {
			text += fmt.Sprintf("  - {name: r%d, wrong: 1, match: {state: close-wait}}\n", i)
		}
		_, err := rules.Parse(strings.NewReader(text))
		if err == nil {
			t.Fatal("the rules of the test have no mistake")
		}
		return fmt.Errorf("r.yaml: %w", err)
	}
	one := "r.yaml:2:16: unknown key \"wrong\""
	for _, test := range []struct {
		name  string
		err   error
		lines int
		first string
		last  string
	}{
		{"no mistake in it", errors.New("open r.yaml: no such file"), 1, "open r.yaml: no such file", "open r.yaml: no such file"},
		{"one", bad(1), 1, one, one},
		{"many", bad(30), 4, one, "and 27 more: sockdog check r.yaml"},
	} {
		lines := strings.Split(daemon.Mistakes("r.yaml", test.err), "\n")
		if len(lines) != test.lines || !strings.HasPrefix(lines[0], test.first) || !strings.HasPrefix(lines[len(lines)-1], test.last) {
			t.Errorf("%s: %q", test.name, lines)
		}
	}
}

// With a bad file at the start the built-in rules stand in, and that is shown,
// until the file is mended; one that goes bad later leaves its rules in force.
func TestBadRulesShown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.options.File = status.RulesFile{Path: "r.yaml", BuiltIn: true, Error: "r.yaml:1:1: bad"}
	current := w.show()
	shows := func(builtIn, ok bool, cure string) {
		t.Helper()
		w.until("the state of the rules", func() bool {
			s := current()
			told := len(s.Problems) == 0 && cure == "" || len(s.Problems) == 1 && strings.Contains(s.Problems[0].Cure, cure)
			return s.File.BuiltIn == builtIn && s.File.OK == ok && told
		})
	}
	w.watch(often + leaked)
	shows(true, false, "the built-in rules watch and touch nothing")
	w.rules <- daemon.Reload{Rules: w.options.Rules}
	shows(false, true, "")
	w.rules <- daemon.Reload{Err: errors.New("bad")}
	shows(false, false, "the rules from before stay in force")
}
