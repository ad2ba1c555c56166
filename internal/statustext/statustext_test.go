package statustext

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/journal"
	"github.com/sockdog/sockdog/internal/status"
	"github.com/sockdog/sockdog/internal/status/statustest"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestPrint(t *testing.T) {
	local := time.Local
	time.Local = time.UTC
	defer func() { time.Local = local }()
	now := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	empty := &status.Status{Version: "v0.4.0", Host: "node-7", Time: now, Started: now.Add(-time.Minute), File: status.RulesFile{BuiltIn: true, OK: true, Loaded: now.Add(-time.Minute)}}
	large := &status.Status{
		Version: "v0.4.0", Host: "node-7", Time: now, Started: now.Add(-time.Minute), Ready: true, File: status.RulesFile{Path: "r.yaml", OK: true, Loaded: now.Add(-time.Minute)},
		Sockets: status.Sockets{"close-wait": 7}, SocketsAt: now.Add(-190 * time.Second), SocketsEverySeconds: 900,
	}
	evil := statustest.Lively(now)
	evil.Problems, evil.Notes, evil.Rules, evil.Sockets = nil, nil, evil.Rules[:1], nil
	evil.Rules[0].HeldBy = []status.ProcessSockets{{Process: "a\n\x1b[2Jb", Sockets: 1}}
	evil.Actions = evil.Actions[:1]
	evil.Actions[0].Time = now.Add(-4 * time.Hour)
	unable := statustest.Lively(now)
	unable.Problems, unable.Rules, unable.Sockets = nil, unable.Rules[:1], nil
	unable.ActionPossible["kill"] = false
	unable.Actions = append(unable.Actions, append(unable.Actions, unable.Actions...)...)
	evil.Actions[0].Comm, evil.Actions[0].Pod = "\x1b]0;caught\a\nroot", "a/b\n\x1b[2J"
	paused := statustest.Lively(now)
	paused.Notes, paused.Rules, paused.Sockets, paused.Actions = nil, nil, nil, nil
	paused.Paused = &status.Pause{Reason: "the database is moved", By: "uid 0", Since: now.Add(-time.Minute)}
	paused.Problems = paused.Problems[:1].With(status.Problem{Kind: "paused", Text: "nothing is acted on, acting is paused: " + paused.Paused.Words(), Cure: "sockdog resume", Since: paused.Paused.Since})
	several := statustest.Lively(now)
	several.Netns, several.Problems, several.Notes, several.Rules, several.Sockets = "", nil, nil, nil, nil
	several.Actions = several.Actions[:3]
	several.Actions[1].Netns, several.Actions[1].NetnsName = "4026532700", "blue"
	for i := range several.Actions {
		several.Actions[i].Pod = ""
	}
	several.Actions[2].Netns, several.Actions[2].Container = "", "0123456789ab"
	for _, test := range []struct {
		name   string
		status *status.Status
	}{
		{"lively", statustest.Lively(now)},
		{"empty", empty},
		{"large", large},
		{"escapes", evil},
		{"unable", unable},
		{"namespaces", several},
		{"paused", paused},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out bytes.Buffer
			if err := Print(&out, test.status, 0); err != nil {
				t.Fatal(err)
			}
			same(t, "testdata/"+test.name+".txt", out.String())
		})
	}
}

// What a rule would have done as a dry run does not read as what it would do now.
func TestOutcomesOfDryRun(t *testing.T) {
	r := status.Rule{Mode: status.DryRun, Actions: map[string]status.Tally{"kill": {journal.Would: 2}}}
	if got := outcomes(&r); got != "would kill 2" {
		t.Errorf("of a dry run: %q", got)
	}
	r.Mode, r.Actions["kill"][journal.Done] = status.Enabled, 3
	if got := outcomes(&r); got != "kill: 3 done; as a dry run: would kill 2" {
		t.Errorf("afterwards: %q", got)
	}
}

func TestHeldBy(t *testing.T) {
	for want, held := range map[string][]status.ProcessSockets{
		"":                           nil,
		"held by java (2)":           {{Process: "java", Sockets: 2}},
		"held by java (2), none (1)": {{Process: "java", Sockets: 2}, {Process: "none", Sockets: 1}},
		"held by java (2), other (3), unknown (1)": {{Process: "java", Sockets: 2}, {Process: "other", Sockets: 3}, {Process: "unknown", Sockets: 1}},
	} {
		if got := heldBy(&status.Rule{HeldBy: held}); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := heldBy(&status.Rule{HeldBy: []status.ProcessSockets{{Process: "unknown", Sockets: 3}}}); got != "" {
		t.Errorf("%q, where it is known of none", got)
	}
}

// On a terminal no line is broken by it, and nothing of what was done is lost.
func TestPrintFits(t *testing.T) {
	local := time.Local
	time.Local = time.UTC
	defer func() { time.Local = local }()
	s := statustest.Lively(time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC))
	s.Problems[1].Text = "the rules file is not in force: /etc/sockdog/rules.yaml:12:7: unknown key \"dprot\": did you mean dport?\n" +
		"/etc/sockdog/rules.yaml:14:7: unknown state \"close-wiat\": did you mean close-wait?\nand 47 more: sockdog check /etc/sockdog/rules.yaml"
	for _, cells := range []int{60, 80, 120} {
		var out strings.Builder
		if err := Print(&out, s, cells); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out.String()) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > cells {
				t.Errorf("%d cells, of %d: %s", n, cells, line)
			}
		}
		same(t, fmt.Sprintf("testdata/lively_%d.txt", cells), out.String())
	}
}

// same compares with a golden file, or writes it anew.
func same(t *testing.T, golden, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
