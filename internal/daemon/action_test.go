package daemon_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/action"
	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/metrics"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/rules"
)

// A kind of action is a value in a table: one that is added there can be used in a
// rules file, and is decided, limited, executed, recorded, counted and shown.
func TestActionOfAnotherKind(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tones := make(chan any, 10)
	nudge := &action.Kind{
		Kind: &rules.Kind{Name: "nudge", On: rules.OnSocket, Destructive: true, Options: []rules.Option{{Name: "tone", Doc: "how", Read: func(text string) (any, error) {
			if text != "loud" && text != "low" {
				return nil, errors.New("a tone is loud or low")
			}
			return text, nil
		}}}},
		Do: func(k action.Kernel, a *engine.Action) error {
			tones <- a.Options["tone"]
			return k.Destroy(a.Socket.ID)
		},
	}
	w.options.Kinds = append(action.Kinds(), nudge)
	const file = often + "rules: [{name: leak, match: {state: close-wait, in_state_for: 1s}, then: {nudge: {tone: loud, limit: 2/1h}}}]\n"
	if _, err := rules.Parse(strings.NewReader(strings.Replace(file, "loud", "shrill", 1)), nudge.Kind); err == nil || !strings.Contains(err.Error(), "a tone is loud or low") {
		t.Errorf("a bad option: %v", err)
	}
	if _, err := rules.Parse(strings.NewReader(file)); err == nil || !strings.Contains(err.Error(), `unknown action "nudge"`) {
		t.Errorf("without the kind: %v", err)
	}
	dir := t.TempDir()
	w.openState(dir)
	current := w.show()
	all := w.leaks(3)
	stop := w.watch(file)
	for _, s := range all[:2] {
		w.dies(s, time.Second)
		if results := w.results(s.cookie); !slices.Equal(results, []string{"nudge done"}) {
			t.Errorf("the log says %v", results)
		}
	}
	w.until("what was done and what is held", func() bool {
		r := current().Rules
		return len(r) == 1 && r[0].Actions["nudge"]["done"] == 2 && r[0].Actions["nudge"]["held"] == 1 && r[0].HeldBack["limit"] == 1
	})
	w.lives(all[2], unix.BPF_TCP_CLOSE_WAIT)
	if tone := <-tones; tone != "loud" {
		t.Errorf("done with the tone %v", tone)
	}
	shown := current()
	if !shown.ActionPossible["nudge"] || len(shown.Actions) == 0 || shown.Actions[0].Action != "nudge" {
		t.Errorf("shown is %v, %v", shown.ActionPossible, shown.Actions)
	}
	if text := string(metrics.Text(shown)); !strings.Contains(text, `sockdog_actions_total{action="nudge",result="done",rule="leak"} 2`) {
		t.Errorf("the metrics say nothing of it:\n%s", text)
	}
	stop()
	journal, err := os.ReadFile(filepath.Join(dir, "sockdog.jsonl"))
	check(t, err)
	if n := strings.Count(string(journal), `"action":"nudge"`); n < 4 {
		t.Errorf("%d records, want an intent and an outcome of each", n)
	}
}

// What is not permitted is switched off and then only said, whatever its kind, and with
// it what needs the same.
func TestActionNotPermitted(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		needs rules.Capability
		kill  bool // is possible all the same
	}{{"something of its own", "", true}, {"what kill needs", rules.Destroy, false}} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			nudge := &action.Kind{
				Kind: &rules.Kind{Name: "nudge", On: rules.OnSocket, Destructive: true, Needs: test.needs},
				Do:   func(action.Kernel, *engine.Action) error { return unix.EPERM },
			}
			w.options.Kinds = append(action.Kinds(), nudge)
			current := w.show()
			s := w.leak(w.listen(nstest.V4, 5432))
			w.watch(often + "rules: [{name: leak, match: {state: close-wait, in_state_for: 1s}, then: nudge}]\n")
			w.result(s.cookie, "failed")
			if l := w.result(s.cookie, "would"); !strings.Contains(l.Reason, "nudge is switched off") {
				t.Errorf("the reason is %q", l.Reason)
			}
			w.until("that it is not possible", func() bool {
				possible := current().ActionPossible
				return !possible["nudge"] && possible["kill"] == test.kill
			})
			w.until("the problem", func() bool { return hasProblem(current(), "nudge") })
			if hasProblem(current(), "kill") {
				t.Error("kill is a problem, and no rule kills")
			}
			w.lives(s, unix.BPF_TCP_CLOSE_WAIT)
		})
	}
}
