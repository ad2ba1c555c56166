package ruletest_test

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ruletest"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

var update = flag.Bool("update", false, "write the golden files anew")

var errNoFile = errors.New("there is no such file here")

var config = ruletest.Config{
	KeptBy: []string{"in_use", "not_due"},
	Load: func(name string) (*rules.Set, error) {
		if name != "leak.yaml" {
			return nil, errNoFile
		}
		return rules.Parse(strings.NewReader("rules: [{name: leak, match: {state: close-wait, in_state_for: 5m}, then: [kill]}]"))
	},
}

func TestParseReportsEveryProblem(t *testing.T) {
	paths, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatal("no files", err)
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			file, err := ruletest.Parse(bytes.NewReader(text), config)
			problems, ok := errors.AsType[rules.Problems](err)
			if !ok {
				t.Fatalf("Parse = %v, %v; want rules.Problems", file, err)
			}
			golden, got := strings.TrimSuffix(path, ".yaml")+".golden", problems.Report(filepath.Base(path))
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", golden, diff)
			}
		})
	}
}

func parse(t *testing.T, text string) *ruletest.File {
	t.Helper()
	f, err := ruletest.Parse(strings.NewReader(text), config)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// What a test leaves out is completed.
func TestDefaults(t *testing.T) {
	f := parse(t, `
rules_file: leak.yaml
tests:
  - name: a
    sockets:
      - {name: plain, state: close-wait, dport: 80}
      - {name: silent, state: established, dport: 80, silent_for: 12m, idle_for: 10m}
      - {name: stalled, state: established, dst: fd00::7, dport: 80, stalled_for: 2m}
      - {name: listener, state: listening, sport: 80}
      - {name: closing, state: last-ack, sport: 80, in_state_for: 2m, count: 3}
    expect:
      - {at: 5m, rule: leak, socket: plain}
      - {at: 6m, rule: leak, socket: closing}
`)
	c := f.Cases[0]
	if c.Until != 6*time.Minute || c.Ports != (ssfilter.PortRange{First: 32768, Last: 60999}) {
		t.Errorf("until %v, ports %v", c.Until, c.Ports)
	}
	for i, want := range []ruletest.Socket{
		{},
		{InState: 12 * time.Minute, Idle: 10 * time.Minute, Silent: 12 * time.Minute},
		{InState: 2 * time.Minute, Idle: 2 * time.Minute, Silent: 2 * time.Minute, Stalled: 2 * time.Minute, Queued: 1},
		{},
		{InState: 2 * time.Minute, Idle: 2 * time.Minute, Silent: 2 * time.Minute, Stalled: 2 * time.Minute, Queued: 1},
	} {
		s := c.Sockets[i]
		if s.InState != want.InState || s.Idle != want.Idle || s.Silent != want.Silent || s.Stalled != want.Stalled || s.Queued != want.Queued {
			t.Errorf("%s: in state %v, idle %v, silent %v, stalled %v, %d queued", s.Name, s.InState, s.Idle, s.Silent, s.Stalled, s.Queued)
		}
	}
	if dst := c.Sockets[2].Dst; !c.Sockets[2].Src.Is6() || dst.String() != "fd00::7" {
		t.Errorf("src %v, dst %v", c.Sockets[2].Src, dst)
	}
	for i, want := range []ruletest.Expectation{{Socket: 0, Count: 1}, {Socket: 4, Count: 3}} {
		if e := c.Expect[i]; e.Rule != "leak" || e.Action != rules.Kill || e.Result != "done" || e.Socket != want.Socket || e.Count != want.Count || e.Within != 0 {
			t.Errorf("expectation %+v", e)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/bad/*.yaml", "../../examples/*_test.yaml"} {
		paths, err := filepath.Glob(pattern)
		if err != nil || len(paths) == 0 {
			f.Fatal("no files", err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := ruletest.Parse(bytes.NewReader(text), config)
		if (file == nil) == (err == nil) {
			t.Fatalf("Parse = %v, %v", file, err)
		}
		if err != nil && !errors.Is(err, errNoFile) && !errors.As(err, new(rules.Problems)) {
			t.Fatalf("%v is no Problems", err)
		}
	})
}
