package rules

import (
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/sockdog/sockdog/rules/internal/document"
)

// Exec runs a program when a group fires. Whoever writes such a rule runs what he likes as
// the watchdog's user, so the operator has to allow it.
var Exec = &Kind{Name: "exec", On: OnGroup, Explicit: true}

// ExecOptions are what an exec action runs.
type ExecOptions struct {
	Command []string      // the program's whole path, and its arguments
	Timeout time.Duration // how long it may take until it is killed, and all that it started
}

// defaultExecLimit is far more than groups that fire one by one take, and far less than what
// groups without end could.
var defaultExecLimit = Limit{N: 60, Per: 10 * time.Minute}

const (
	defaultExecTimeout = 10 * time.Second
	maxExecTimeout     = 10 * time.Minute
	// mostArguments and longestArgument bound a command well below what execve(2) takes.
	mostArguments   = 100
	longestArgument = 4096
)

var execTable = document.Table[act]{What: "exec", Keys: []document.Key[act]{
	document.Func("command", func(r *document.Reader, key, n *yaml.Node, a *act) { a.exec().Command = command(r, key, n) }),
	document.Field("timeout", duration, func(a *act) *time.Duration { return &a.exec().Timeout }),
	document.Field("limit", rate, func(a *act) *Limit { return &a.Limit }),
	after,
}}

func (a *act) exec() *ExecOptions {
	if a.Exec == nil {
		a.Exec = &ExecOptions{}
	}
	return a.Exec
}

// command is a list of the program and its arguments.
func command(r *document.Reader, key, n *yaml.Node) []string {
	if t := document.Target(n); t.Kind == yaml.ScalarNode && !document.IsNull(t) {
		r.Report(n, "a command is a list, for no shell reads it: [/usr/local/bin/dump, --all]")
		return nil
	}
	words := document.ListOf(document.Text)(r, n)
	if words == nil {
		return nil
	}
	items := document.Target(n).Content
	switch {
	case len(words) == 0:
		r.Report(key, "the command is empty: name a program, [/usr/local/bin/dump, --all]")
	case len(words) > mostArguments:
		r.Report(items[mostArguments], "this is one argument too many: a command has up to %d", mostArguments)
	case words[0] != "" && !strings.HasPrefix(words[0], "/"):
		r.Report(items[0], "write the whole path of the program, such as /usr/local/bin/dump: no PATH is searched")
	}
	for i, word := range words {
		if len(word) > longestArgument || strings.ContainsRune(word, 0) {
			r.Report(items[i], "an argument has up to %d bytes, and none of them is zero", longestArgument)
		}
	}
	return words
}

// checkExec holds an exec action to having a command, and fills in its defaults.
func checkExec(r *document.Reader, a *act) {
	if a.lacks("command") {
		r.Report(a.at, "exec needs a command: write - exec: {command: [/usr/local/bin/dump, --all]}")
	}
	if !a.given.Has("limit") {
		a.Limit = defaultExecLimit
	}
	switch o := a.exec(); {
	case !a.given.Has("timeout"):
		o.Timeout = defaultExecTimeout
	case o.Timeout > maxExecTimeout:
		r.Report(a.given["timeout"], "this is too long: the maximum is 10m, and no other group of the rule is attended to meanwhile")
	}
}
