package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
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
	var allow []string
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
				ok, err := check(cmd.OutOrStdout(), file, allow, lint)
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
	allowFlag(cmd, &allow, "what the `actions` of rules may be, as for sockdog run; by default any")
	cmd.Flags().BoolVar(&lint, "lint", false, "warn about what is allowed but unwise")
	return cmd
}

// check prints what is wrong with a file, and reports whether it is good. An
// error means that it could not be read.
func check(out io.Writer, file string, allow []string, lint bool) (bool, error) {
	f, err := readRules(out, file, allow)
	if err != nil {
		return false, err
	}
	if lint {
		warnings, _ := rules.Lint(bytes.NewReader(f.text), action.InRules(action.Kinds())...) // its error is Parse's
		for i := range warnings {
			warnings[i].Msg = "warning: " + warnings[i].Msg
		}
		fmt.Fprint(out, warnings.Report(f.name))
		if exposed, cure := reload.Exposed(file); exposed != "" && file != "-" {
			fmt.Fprintf(out, "%s: warning: others can change the rules, and with them what is killed: %s; %s\n", file, exposed, cure)
		}
	}
	if f.problems != nil {
		return false, nil
	}
	if file != "-" {
		if err := service.Trust(f.set, file); err != nil {
			fmt.Fprintln(out, err)
			return false, nil
		}
	}
	fmt.Fprintf(out, "%s: %s, good\n", f.name, term.Count(len(f.set.Rules), "rule"))
	if explicit := explicitKinds(f.set); allow == nil && len(explicit) > 0 {
		all := append(action.AllowedByDefault(action.Kinds()), explicit...)
		fmt.Fprintf(out, "%s: sockdog run takes it with --allow %s\n", f.name, strings.Join(all, ","))
	}
	return true, nil
}

// explicitKinds are the names of the actions in a file that sockdog run must be told to allow.
func explicitKinds(set *rules.Set) (names []string) {
	for i := range set.Rules {
		for _, a := range set.Rules[i].Then {
			if a.Kind.Explicit && !slices.Contains(names, a.Kind.Name) {
				names = append(names, a.Kind.Name)
			}
		}
	}
	return names
}

// rulesFile is a file with rules, and what came of reading them.
type rulesFile struct {
	name     string // in messages
	text     []byte
	set      *rules.Set
	problems rules.Problems // nil: it is good
}

// readRules reads a file, or standard input where its name is "-", and prints what is
// wrong with its rules, which may have no other actions than those; nil: any.
func readRules(out io.Writer, file string, allow []string) (f rulesFile, err error) {
	const enough = 2 << 20 // for rules.Parse to see that it is too long
	in := os.Stdin
	f.name = "standard input"
	if file != "-" {
		f.name = file
		if in, err = os.Open(file); err != nil {
			return f, reload.WithCure(err, file)
		}
		defer in.Close()
		if info, err := in.Stat(); err == nil && info.IsDir() {
			return f, fmt.Errorf("%s is a directory: name a rules file in it, such as %s/rules.yaml", file, strings.TrimSuffix(file, "/"))
		}
	}
	if f.text, err = io.ReadAll(io.LimitReader(in, enough)); err != nil {
		return f, err
	}
	f.set, err = rules.ParseAllowed(bytes.NewReader(f.text), allow, action.InRules(action.Kinds())...)
	if errors.As(err, &f.problems) {
		fmt.Fprint(out, f.problems.Report(f.name))
		err = nil
	}
	return f, err
}

// loadRules loads a rules file for a command that needs it good, and prints what is
// wrong with it.
func loadRules(out io.Writer, file string) (*rules.Set, error) {
	f, err := readRules(out, file, nil)
	if err == nil && f.problems != nil {
		err = fmt.Errorf("%s: %s", f.name, term.Count(f.problems.Count(), "problem"))
	}
	return f.set, err
}
