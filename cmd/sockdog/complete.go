package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sockdog/sockdog/internal/selection"
	"github.com/sockdog/sockdog/internal/sockettable"
)

// rulesFiles are the extensions of the files that hold rules.
var rulesFiles = []string{"yaml", "yml"}

// completes has the shells complete the value of a flag by some words.
func completes(cmd *cobra.Command, flag string, words ...string) {
	completesBy(cmd, flag, 0, func(string) []string { return words })
}

// completesBy is completes with words that depend on what is there of the value.
func completesBy(cmd *cobra.Command, flag string, more cobra.ShellCompDirective, words func(begun string) []string) {
	_ = cmd.RegisterFlagCompletionFunc(flag, func(_ *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		return beginning(words(word), word), cobra.ShellCompDirectiveNoFileComp | more
	}) // there is such a flag
}

// completesFile has the shells complete the value of a flag by files of any name.
func completesFile(cmd *cobra.Command, flag string) {
	_ = cmd.RegisterFlagCompletionFunc(flag, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return nil, cobra.ShellCompDirectiveDefault
	}) // there is such a flag
}

// beginning returns the words that begin so. Not every shell looks.
func beginning(words []string, so string) []string {
	return slices.DeleteFunc(slices.Clone(words), func(w string) bool { return !strings.HasPrefix(w, so) })
}

// sortWords completes the name of a column, with a - before it or without.
func sortWords(begun string) []string {
	names := sockettable.Sortable()
	if strings.HasPrefix(begun, "-") {
		for i := range names {
			names[i] = "-" + names[i]
		}
	}
	return names
}

// listWords completes the last of some names, with commas between them.
func listWords(all func() []string) func(begun string) []string {
	return func(begun string) []string {
		before := begun[:strings.LastIndexByte(begun, ',')+1]
		named := strings.Split(before, ",")
		var names []string
		for _, name := range all() {
			if !slices.Contains(named, name) {
				names = append(names, before+name)
			}
		}
		return names
	}
}

// completeFilter completes the next word of a filter, by those before it.
func completeFilter(_ *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	return beginning(selection.NextWords(strings.Fields(strings.Join(args, " "))), word), cobra.ShellCompDirectiveNoFileComp
}
