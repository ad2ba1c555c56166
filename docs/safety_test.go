package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestSafety: the tests that docs/safety.md names exist, and each row names some.
func TestSafety(t *testing.T) {
	text, err := os.ReadFile("safety.md")
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile("`((?:internal|rules|cmd)[a-z0-9/]*)\\.(Test[A-Za-z0-9]+)`")
	named := 0
	for row := range strings.Lines(string(text)) {
		if !strings.HasPrefix(row, "| ") || strings.HasPrefix(row, "| harm |") {
			continue
		}
		tests := name.FindAllStringSubmatch(row, -1)
		if len(tests) == 0 {
			t.Errorf("no test is named in: %s", row)
		}
		for _, test := range tests {
			named++
			if !declares(t, filepath.Join("..", test[1]), test[2]) {
				t.Errorf("there is no %s in %s", test[2], test[1])
			}
		}
	}
	if named < 40 {
		t.Errorf("%d tests are named", named)
	}
}

// declares reports whether a directory has a test of that name.
func declares(t *testing.T, dir, name string) bool {
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "\nfunc "+name+"(t *testing.T)") {
			return true
		}
	}
	return false
}
