// Command sockdog is a watchdog for stuck TCP sockets. Here are its flags and
// its wiring; what it does is in internal.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sockdog/sockdog/internal/host"
	"github.com/sockdog/sockdog/internal/service"
	"github.com/sockdog/sockdog/internal/source/events"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

func main() {
	host.RaiseToRead()
	events.BecomeLoader()
	host.BecomeTrial()
	os.Exit(run(os.Args[1:]))
}

// badConfig is EX_CONFIG of sysexits.h: no restart cures it. It is a status of its
// own because the Go runtime ends a process that crashes with 2, as wrong usage does.
const badConfig = 78

// commands are the constructors of all commands, by their names.
var commands = map[string]func() *cobra.Command{
	"run": runCommand, "check": checkCommand, "schema": schemaCommand, "test": testCommand, "plan": planCommand, "list": listCommand, "why": whyCommand, "kill": killCommand,
	"status": statusCommand, "pause": pauseCommand, "resume": resumeCommand, "rule": ruleCommand,
	"doctor": doctorCommand, "record": recordCommand, "demo": demoCommand, "version": versionCommand, "completion": completionCommand,
}

// newRoot returns the command of all commands, of which it has the one that args name:
// to make the others takes as long as many a command itself.
func newRoot(args []string) *cobra.Command {
	root := &cobra.Command{
		Use:           "sockdog",
		Short:         "A watchdog for stuck TCP sockets",
		Long:          "sockdog watches the kernel's socket table, acts on sockets that match its rules as\nsoon as they fall due, and logs every action.",
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          knownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.Help()
			return usage{errors.New("which command?")}
		},
	}
	root.PersistentPreRun = func(cmd *cobra.Command, _ []string) {
		if cmd.Name() != "run" { // the daemon is to be the last
			host.BeExpendable()
		}
	}
	root.SetFlagErrorFunc(flagError)
	first := append(args, "")[0]
	if one := commands[first]; one != nil {
		root.AddCommand(one())
	} else {
		for _, command := range commands {
			root.AddCommand(command())
		}
	}
	help := &cobra.Command{Use: "help [COMMAND]", Short: "Print the help of a command", Run: func(*cobra.Command, []string) {}} // cobra shows what can run
	for _, c := range root.Commands() {
		c.Args = checked(c.Args)
		help.ValidArgs = append(help.ValidArgs, c.Name()+"\t"+c.Short)
	}
	root.SetHelpCommand(help)
	root.InitDefaultHelpCmd()
	root.CompletionOptions.DisableDefaultCmd = true // ours is among the commands
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	root.SetArgs(args)
	return root
}

// flagError says what is wrong with a flag, and what to write where ss has it.
func flagError(cmd *cobra.Command, err error) error {
	if worded, ok := errors.AsType[usage](err); ok {
		err = worded.error
	}
	switch {
	case !cmd.HasParent():
		err = fmt.Errorf("%w: %s", err, likeSs)
	case strings.HasSuffix(err.Error(), "'o' in -o") && cmd.Name() != "record", cmd.Name() == "list" && strings.HasPrefix(err.Error(), "-o is"):
		err = fmt.Errorf("%w (ss's -o shows timers: AGE and IDLE stand in the table)", err)
	}
	return usage{err}
}

// run runs one command line and returns its exit status: 0 good, 1 a problem was
// found, 2 wrong usage, 78 bad rules at the start of the daemon.
func run(args []string) int {
	if len(args) > 0 && args[0] == "help" {
		args = slices.Insert(slices.Clone(args[1:]), min(1, len(args)-1), "--help") // after the command
	}
	root := newRoot(args)
	cmd, err := root, unknownCommand(root, args)
	if err == nil {
		cmd, err = root.ExecuteC()
	}
	if err == nil {
		return 0
	}
	if text := err.Error(); text != "" {
		fmt.Fprintln(os.Stderr, "sockdog: "+text)
	}
	var ended interrupted
	switch {
	case errors.As(err, &ended):
		return 128 + int(ended.signal) // as a shell has it
	case errors.As(err, new(service.BadRules)):
		return badConfig
	case errors.As(err, new(usage)):
		fmt.Fprintf(os.Stderr, "Try '%s --help'.\n", cmd.CommandPath())
		return 2
	}
	return 1
}

// likeSs is what to tell who writes sockdog where ss stood.
const likeSs = "what ss takes follows sockdog list or sockdog kill"

// unknownCommand finds a request to tell of a command that there is not: cobra would
// answer it for sockdog as a whole.
func unknownCommand(root *cobra.Command, args []string) error {
	asks := func(arg string) bool { return slices.Contains([]string{"-h", "--help", "-v", "--version"}, arg) }
	if !slices.ContainsFunc(args, asks) {
		return nil
	}
	word := slices.IndexFunc(args, func(arg string) bool { return !strings.HasPrefix(arg, "-") })
	if word < 0 {
		return nil
	}
	if cmd, _, err := root.Find(args[word:]); err == nil && cmd != root {
		return nil
	}
	return knownCommand(root, args[word:])
}

// knownCommand finds a word where a command should be, and names the nearest.
func knownCommand(root *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	text := fmt.Sprintf("there is no command %q", args[0])
	root.SuggestionsMinimumDistance = 1
	switch near := root.SuggestionsFor(args[0]); {
	case len(near) > 0:
		text += ": did you mean " + strings.Join(near, " or ") + "?"
	case beginsFilter(args[0]):
		text += ": " + likeSs
	}
	return usage{errors.New(text)}
}

// beginsFilter reports whether a filter for ss may begin so. Of some that is wrong
// the parser says where, but not at the first word.
func beginsFilter(word string) bool {
	if _, err := ssfilter.ParseState(word); err == nil {
		return true
	}
	_, err := ssfilter.ParseFilter(word, nil)
	var syntax *ssfilter.SyntaxError
	return !errors.As(err, &syntax) || syntax.Offset > 0
}

// usage is an error of the command line.
type usage struct{ error }

// errPrinted is a problem that has been printed already.
var errPrinted = errors.New("")

// asUsage makes an error, if it is one, one of usage.
func asUsage(err error) error {
	if err == nil {
		return nil
	}
	return usage{err}
}

// checked makes wrong arguments a usage error; a command without a check of its own
// takes none.
func checked(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case check != nil:
			return asUsage(check(cmd, args))
		case len(args) > 0:
			text := fmt.Sprintf("%s takes no arguments, but was given %q", cmd.Name(), args[0])
			if takesRules := cmd.Flags().Lookup("rules") != nil; takesRules && slices.Contains(rulesFiles, strings.TrimPrefix(filepath.Ext(args[0]), ".")) {
				text += fmt.Sprintf(": write %s --rules %s", cmd.CommandPath(), args[0])
			}
			return usage{errors.New(text)}
		}
		return nil
	}
}
