package examples

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sockdog/sockdog/internal/action"
	"github.com/sockdog/sockdog/internal/testrun"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ruletest"
)

// unitTests is what the name of a file of tests ends in.
const unitTests = "_test.yaml"

// Each example has unit tests, in which each of its rules acts.
func TestUnitTests(t *testing.T) {
	files, err := filepath.Glob("*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob("kubernetes/*/rules.yaml")
	if err != nil || len(files) == 0 || len(more) == 0 {
		t.Fatal("no files", err)
	}
	for _, file := range append(files, more...) {
		if !strings.HasSuffix(file, unitTests) {
			t.Run(file, func(t *testing.T) { unitTest(t, file) })
		}
	}
}

// unitTest runs the unit tests of an example.
func unitTest(t *testing.T, file string) {
	tests := strings.TrimSuffix(file, ".yaml") + unitTests
	text, err := os.Open(tests)
	if err != nil {
		t.Fatal(err)
	}
	defer text.Close()
	f, err := ruletest.Parse(text, ruletest.Config{KeptBy: testrun.Reasons(), Load: func(name string) (*rules.Set, error) {
		if name != filepath.Base(file) {
			t.Errorf("%s is about %s", tests, name)
		}
		text, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer text.Close()
		return rules.Parse(text, action.InRules(action.Kinds())...)
	}})
	if err != nil {
		t.Fatal(err)
	}
	r, acts := testrun.FileResult{Name: tests}, map[string]bool{}
	for i := range f.Cases {
		r.Results = append(r.Results, testrun.Run(f.Rules, &f.Cases[i]))
		for _, e := range f.Cases[i].Expect {
			acts[e.Rule] = acts[e.Rule] || e.KeptBy == ""
		}
	}
	if r.Failed() > 0 {
		var b strings.Builder
		r.Print(&b)
		t.Error(b.String())
	}
	for _, rule := range f.Rules.Rules {
		if !acts[rule.Name] {
			t.Errorf("the rule %s acts in no test of %s", rule.Name, tests)
		}
	}
}
