package rules

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares got with the file, or writes it.
func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; run go test ./rules -update", err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// eachFile runs test on every YAML file of a folder below testdata.
func eachFile(t *testing.T, folder string, test func(t *testing.T, path string, text []byte)) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("testdata", folder, "*.yaml"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no files in testdata/%s: %v", folder, err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".yaml"), func(t *testing.T) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			test(t, path, text)
		})
	}
}

func TestParseReportsEveryProblem(t *testing.T) {
	eachFile(t, "bad", func(t *testing.T, path string, text []byte) {
		set, err := Parse(bytes.NewReader(text))
		var problems Problems
		if !errors.As(err, &problems) {
			t.Fatalf("Parse = %v, %v; want Problems", set, err)
		}
		golden(t, strings.TrimSuffix(path, ".yaml")+".golden", []byte(problems.Report(filepath.Base(path))))
	})
}

// How each filter is understood is how it prints.
func TestFilters(t *testing.T) {
	text, err := os.ReadFile("testdata/good/filters.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var report strings.Builder
	for _, r := range mustParse(t, string(text)).Rules {
		fmt.Fprintf(&report, "%s: %v\n", r.Name, r.Match[0].Where)
		for _, m := range r.Exclude {
			fmt.Fprintf(&report, "%s, but: %v\n", r.Name, m.Where)
		}
	}
	golden(t, "testdata/good/filters.golden", []byte(report.String()))
}

func TestLintWarns(t *testing.T) {
	eachFile(t, "lint", func(t *testing.T, path string, text []byte) {
		warnings, err := Lint(bytes.NewReader(text))
		if problems := (Problems{}); err != nil && !errors.As(err, &problems) {
			t.Fatal(err)
		}
		golden(t, strings.TrimSuffix(path, ".yaml")+".golden", []byte(warnings.Report(filepath.Base(path))))
	})
}
