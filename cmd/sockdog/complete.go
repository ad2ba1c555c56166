package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sockdog/sockdog/internal/client"
	"github.com/sockdog/sockdog/internal/selection"
	"github.com/sockdog/sockdog/internal/sockettable"
)

// flagValues are what may follow a flag, by its name, where that is not a file.
var flagValues = map[string][]string{
	"address":      {client.DefaultAddress},
	"daemon":       {client.DefaultAddress, "off"},
	"idle":         {"1m", "10m", "1h", "1d"},
	"listen":       {client.DefaultAddress, ":9797", "off"},
	"listen-name":  nil,
	"log-format":   {"auto\ttext on a terminal and in systemd's journal, else JSON", "text", "json"},
	"log-level":    {"info", "debug\thow sockets are matched, too"},
	"older-than":   {"1m", "5m", "10m", "1h"},
	"on-bad-rules": {"exit\tend with status 78", "observe\twatch with the built-in rules, and touch nothing"},
	"watch":        {"1s", "2s", "5s", "10s"},
}

// completes has the shells complete what a command takes: never the names of files,
// unless it takes files.
func completes(cmd *cobra.Command) {
	if cmd.ValidArgsFunction == nil && len(cmd.ValidArgs) == 0 {
		cmd.ValidArgsFunction = cobra.NoFileCompletions
	}
	with := func(flag string, complete cobra.CompletionFunc) {
		if cmd.Flags().Lookup(flag) != nil {
			_ = cmd.RegisterFlagCompletionFunc(flag, complete) // its error: it has one, or is none
		}
	}
	for flag, values := range flagValues {
		with(flag, oneOf(values))
	}
	with("rules", rulesFiles)
	with("state-dir", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return nil, cobra.ShellCompDirectiveFilterDirs
	})
	with("sort", completeSort)
	with("group-by", completeKeys)
	if f := cmd.Flags().Lookup("output"); f != nil {
		formats := []string{"table", "json"}
		if strings.Contains(f.Usage, "wide") {
			formats = []string{"table", "wide\tmore columns, with the process", "json"}
		}
		with("output", oneOf(formats))
	}
}

// oneOf completes one of some words, each of which may have a tab and a remark behind
// it.
func oneOf(words []string) cobra.CompletionFunc {
	return func(_ *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		return begun(words, word), cobra.ShellCompDirectiveNoFileComp
	}
}

// begun are the words that begin so. Not every shell looks.
func begun(words []string, so string) []string {
	var list []string
	for _, w := range words {
		if strings.HasPrefix(w, so) {
			list = append(list, w)
		}
	}
	return list
}

func rulesFiles(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return []string{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt
}

// completeSort completes the name of a column, with a - before it or without.
func completeSort(_ *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
	sign := ""
	if strings.HasPrefix(word, "-") {
		sign = "-"
	}
	var names []string
	for _, name := range sockettable.Sortable() {
		names = append(names, sign+name)
	}
	return begun(names, word), cobra.ShellCompDirectiveNoFileComp
}

// completeKeys completes the last of some names of columns.
func completeKeys(_ *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
	before := word[:strings.LastIndexByte(word, ',')+1]
	named := strings.Split(before, ",")
	var names []string
	for _, name := range sockettable.Groupable() {
		if !slices.Contains(named, name) {
			names = append(names, before+name)
		}
	}
	return begun(names, word), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

// completeFilter completes the next word of a filter, by those before it.
func completeFilter(_ *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	return begun(selection.NextWords(strings.Fields(strings.Join(args, " "))), word), cobra.ShellCompDirectiveNoFileComp
}
