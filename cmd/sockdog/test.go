package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/spf13/cobra"

	"github.com/sockdog/sockdog/internal/action"
	"github.com/sockdog/sockdog/internal/testrun"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ruletest"
)

func testCommand() *cobra.Command {
	var t tests
	var r replaying
	cmd := &cobra.Command{
		Use:   "test FILE|DIR...",
		Short: "Run unit tests of rules in simulated time, or rules over a recording",
		Long: `Run unit tests of rules. A file of tests describes sockets, what happens to them, and
what the rules are to do, when; sockdog's own engine decides, in simulated time, so that
hours take milliseconds and nothing real is touched. Whatever happens and is not expected
is a failure. Of a directory, all files that end in _test.yaml are run.

docs/testing.md is a tutorial, and says what a file of tests may hold. The exit status is
1 if a test fails or a file has a problem.

With --replay the file is one of rules. The same engine says what they would have done
over a recording of sockdog record, and --against an older file what both would have,
and each alone. Nothing is known of what happened between two scans: what fell due then
is told at the next one. A socket that would be killed is taken for gone from then on.
The exit status is 1 if the recording is not whole, or does not tell what rules ask for;
docs/recording.md says more.`,
		Example: `  sockdog test rules_test.yaml
  sockdog test --run 'limit' --junit report.xml /etc/sockdog
  sockdog test --replay shop.rec rules.yaml
  sockdog test --replay shop.rec --against /etc/sockdog/rules.yaml rules.yaml`,
		Args: func(cmd *cobra.Command, files []string) error {
			if err := r.check(cmd, files); r.given() || err != nil {
				return err
			}
			if len(files) == 0 {
				return errors.New("test needs at least one file of tests, or a directory with such files")
			}
			return nil
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return rulesFiles, cobra.ShellCompDirectiveFilterFileExt
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if r.given() {
				return r.run(args[0], t.output, cmd.OutOrStdout(), cmd.ErrOrStderr())
			}
			return t.run(cmd, args)
		},
	}
	cmd.Flags().Func("run", "run only tests whose names match this `regexp`", func(text string) (err error) {
		t.only, err = regexp.Compile(text)
		return err
	})
	cmd.Flags().StringVar(&t.junit, "junit", "", "write a report in JUnit's XML to this `file`, too")
	_ = cmd.MarkFlagFilename("junit", "xml") // there is such a flag
	r.flags(cmd)
	oneOf(cmd, &t.output, "output", "o", "`format`: %s", "text", "json")
	return cmd
}

// tests are the tests that the command runs.
type tests struct {
	only   *regexp.Regexp // nil: all
	junit  string
	output string
}

func (t *tests) run(cmd *cobra.Command, args []string) error {
	files, err := testFiles(args)
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	var results []testrun.FileResult
	ran, bad := 0, false
	for _, file := range files {
		r := t.runFile(file)
		ran += len(r.Results)
		bad = bad || r.Broken != "" || r.Failed() > 0
		if t.output != "json" && (r.Broken != "" || len(r.Results) > 0) {
			r.Print(out)
		}
		results = append(results, r)
	}
	if t.output == "json" {
		err = testrun.PrintJSON(out, results)
	}
	if t.junit != "" {
		err = errors.Join(err, writeJUnit(t.junit, results))
	}
	switch {
	case err != nil:
		return err
	case bad:
		return errPrinted
	case ran == 0:
		return fmt.Errorf("no test has a name that matches %q", t.only)
	}
	return nil
}

func writeJUnit(file string, results []testrun.FileResult) error {
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(testrun.WriteJUnit(out, results), out.Close())
}

// testSuffixes are what the names of files of tests end in.
var testSuffixes = []string{"_test.yaml", "_test.yml"}

// testFiles finds the files that arguments name.
func testFiles(args []string) (files []string, err error) {
	for _, arg := range args {
		dir, all := strings.CutSuffix(arg, "/...") // as go test has it
		if info, err := os.Stat(dir); err != nil {
			return nil, err
		} else if !info.IsDir() && !all {
			files = append(files, arg)
			continue
		}
		before := len(files)
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && slices.ContainsFunc(testSuffixes, func(end string) bool { return strings.HasSuffix(path, end) }) {
				files = append(files, path)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		if len(files) == before {
			return nil, fmt.Errorf("%s has no file of tests: their names end in %s", dir, testSuffixes[0])
		}
	}
	return files, nil
}

// runFile runs the tests of a file.
func (t *tests) runFile(file string) testrun.FileResult {
	r := testrun.FileResult{Name: file}
	f, problems, err := readTests(file)
	switch {
	case err != nil:
		r.Broken = fmt.Sprintf("%s: %s\n", file, oneLine(err))
	case problems != "":
		r.Broken = problems
	default:
		left := func(c ruletest.Case) bool { return t.only != nil && !t.only.MatchString(c.Name) }
		r.Results = runAll(f.Rules, slices.DeleteFunc(f.Cases, left))
	}
	return r
}

// runAll runs tests of the rules, as many at once as there are cores.
func runAll(set *rules.Set, cases []ruletest.Case) []testrun.Result {
	debug.SetGCPercent(400) // they keep next to nothing of what they allocate
	results := make([]testrun.Result, len(cases))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(cases)) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(cases)); i = next.Add(1) - 1 {
				results[i] = testrun.Run(set, &cases[i])
			}
		})
	}
	wg.Wait()
	return results
}

// readTests reads a file of tests, and the rules file that it names; problems are what is
// wrong in either, in lines.
func readTests(file string) (f *ruletest.File, problems string, err error) {
	text, err := os.Open(file)
	if err != nil {
		return nil, "", err
	}
	defer text.Close()
	var beside bytes.Buffer
	kinds := action.InRules(action.Kinds())
	f, err = ruletest.Parse(io.Reader(text), ruletest.Config{
		Kinds: kinds, KeptBy: testrun.Reasons(),
		Load: func(name string) (*rules.Set, error) {
			if !filepath.IsAbs(name) {
				name = filepath.Join(filepath.Dir(file), name)
			}
			return loadRules(&beside, name)
		},
	})
	if beside.Len() > 0 {
		return nil, beside.String(), nil
	}
	if wrong, ok := errors.AsType[rules.Problems](err); ok {
		return nil, wrong.Report(file), nil
	}
	return f, "", err
}
