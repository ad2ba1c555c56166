package daemon_test

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/status"
)

// Why a rule leaves a socket alone is shown, under a name that is known.
func TestSpared(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	current := w.show()
	s := w.leak(w.listen(nstest.V4, 5432))
	w.watch("protect: [sport = 5432]\n" + often + "rules: [{name: leak, match: {state: close-wait, in_state_for: 1s}, then: kill}]\n")
	w.until("a socket that is spared", func() bool {
		rules := current().Rules
		return len(rules) == 1 && rules[0].HeldBack["protected"] == 1
	})
	for reason := range current().Rules[0].HeldBack {
		if !slices.Contains(status.HeldReasons, reason) {
			t.Errorf("the reason %q is not among those that are exported", reason)
		}
	}
	w.lives(s, unix.BPF_TCP_CLOSE_WAIT)
}
