package rules

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// TestOneMistakeIsToldOnce breaks each key and each value of each file in turn: one
// mistake is one problem, and leads to no warning that the good file has not.
func TestOneMistakeIsToldOnce(t *testing.T) {
	test := func(t *testing.T, _ string, text []byte) {
		before, err := Lint(bytes.NewReader(text))
		if err != nil {
			return // it has a mistake
		}
		known := map[string]bool{}
		for _, w := range before {
			known[w.Msg] = true
		}
		for _, broken := range mutants(t, text) {
			warnings, err := Lint(bytes.NewReader(broken))
			problems, _ := errors.AsType[Problems](err)
			if len(problems) > 1 {
				t.Errorf("one mistake is told as\n%s", problems.Report("f"))
			}
			for _, w := range warnings {
				if len(problems) > 0 && !known[w.Msg] {
					t.Errorf("the mistake\n%sleads to the warning\n%s", problems.Report("f"), Problems{w}.Report("f"))
				}
			}
		}
	}
	eachFile(t, "lint", test)
	eachFile(t, "good", test)
}

// mutants are the text with one key misspelt, or one value made such as stands for
// nothing, each in turn.
func mutants(t *testing.T, text []byte) [][]byte {
	t.Helper()
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(text), "\n")
	var all [][]byte
	var walk func(n *yaml.Node, isKey bool)
	walk = func(n *yaml.Node, isKey bool) {
		for i, c := range n.Content {
			walk(c, n.Kind == yaml.MappingNode && i%2 == 0)
		}
		if n.Kind != yaml.ScalarNode || n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 || n.Anchor != "" || n.Value == "<<" {
			return
		}
		line := lines[n.Line-1]
		at := 0
		for range n.Column - 1 {
			_, size := utf8.DecodeRuneInString(line[at:])
			at += size
		}
		rest := line[at:]
		written := n.Value
		if q := rest[0]; q == '"' || q == '\'' {
			written = string(q) + written + string(q)
		}
		after, ok := strings.CutPrefix(rest, written)
		if !ok {
			return
		}
		wrongs := []string{`"?!"`, ""}
		if isKey {
			wrongs = []string{n.Value + "x"}
		}
		for _, wrong := range wrongs {
			mutated := append([]string{}, lines...)
			mutated[n.Line-1] = line[:at] + wrong + after
			all = append(all, []byte(strings.Join(mutated, "")))
		}
	}
	walk(&doc, false)
	return all
}
