package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sockdog/sockdog/internal/action"
	"github.com/sockdog/sockdog/internal/reload"
	"github.com/sockdog/sockdog/internal/service"
	"github.com/sockdog/sockdog/internal/term"
	"github.com/sockdog/sockdog/rules"
)

func checkCommand() *cobra.Command {
	var lint bool
	cmd := &cobra.Command{
		Use:   "check FILE...",
		Short: "Check rules files",
		Long: `Check rules files and print every problem with its line and column. "-" reads
standard input. The exit status is 1 if a file has a problem; warnings of --lint do
not count.`,
		Example: "  sockdog check /etc/sockdog/rules.yaml\n  sockdog check --lint rules/*.yaml",
		Args: func(_ *cobra.Command, files []string) error {
			if len(files) == 0 {
				return errors.New("check needs at least one file, or - for standard input")
			}
			return nil
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return rulesFiles, cobra.ShellCompDirectiveFilterFileExt
		},
		RunE: func(cmd *cobra.Command, files []string) error {
			bad := false
			for _, file := range files {
				ok, err := check(cmd.OutOrStdout(), file, lint)
				if err != nil {
					fmt.Fprintln(cmd.ErrOrStderr(), "sockdog:", err)
				}
				bad = bad || !ok
			}
			if bad {
				return errPrinted
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&lint, "lint", false, "warn about what is allowed but unwise")
	return cmd
}

// check prints what is wrong with a file, and reports whether it is good. An
// error means that it could not be read.
func check(out io.Writer, file string, lint bool) (bool, error) {
	text, err := readRules(file)
	if err != nil {
		return false, err
	}
	kinds := action.InRules(action.Kinds())
	set, err := rules.Parse(bytes.NewReader(text), kinds...)
	var problems rules.Problems
	if errors.As(err, &problems) {
		fmt.Fprint(out, problems.Report(named(file)))
	} else if err != nil {
		return false, err
	}
	if lint {
		warnings, _ := rules.Lint(bytes.NewReader(text), kinds...) // its error is Parse's
		for i := range warnings {
			warnings[i].Msg = "warning: " + warnings[i].Msg
		}
		fmt.Fprint(out, warnings.Report(named(file)))
		if exposed := reload.Exposed(file); exposed != "" && file != "-" {
			fmt.Fprintf(out, "%s: warning: others can change the rules, and with them what is killed: %s; %s\n", file, exposed, service.ExposedCure)
		}
	}
	if problems != nil {
		return false, nil
	}
	fmt.Fprintf(out, "%s: %s, good\n", named(file), term.Count(len(set.Rules), "rule"))
	return true, nil
}

// readRules reads a file, or standard input where its name is "-", far enough
// for rules.Parse to see that it is too long.
func readRules(file string) ([]byte, error) {
	const enough = 2 << 20
	if file == "-" {
		return io.ReadAll(io.LimitReader(os.Stdin, enough))
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return nil, fmt.Errorf("%s is a directory: name a rules file in it, such as %s/rules.yaml", file, strings.TrimSuffix(file, "/"))
	}
	return io.ReadAll(io.LimitReader(f, enough))
}

// named is what a message calls a file.
func named(file string) string {
	if file == "-" {
		return "standard input"
	}
	return file
}

// loadRules loads a rules file for a command that needs it good, and prints what is
// wrong with it.
func loadRules(out io.Writer, file string) (*rules.Set, error) {
	text, err := readRules(file)
	if err != nil {
		return nil, err
	}
	set, err := rules.Parse(bytes.NewReader(text), action.InRules(action.Kinds())...)
	var problems rules.Problems
	if errors.As(err, &problems) {
		fmt.Fprint(out, problems.Report(named(file)))
		return nil, fmt.Errorf("%s: %s", named(file), term.Count(problems.Count(), "problem"))
	}
	return set, err
}
