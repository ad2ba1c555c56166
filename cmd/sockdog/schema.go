package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ruletest"
)

// schemas are what the command prints, by its argument.
var schemas = map[string]func() []byte{"rules": rules.Schema, "tests": ruletest.Schema}

func schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema [rules|tests]",
		Short: "Print the JSON Schema of the rules file, or of files of tests",
		Long: `Print the JSON Schema of the rules file, or of files of tests for sockdog test, for
editors that complete YAML and check it while you type.`,
		Example: `  sockdog schema > sockdog.schema.json
  sockdog schema tests > sockdog-tests.schema.json`,
		ValidArgs: []string{"rules\tthe rules file", "tests\tfiles of tests for sockdog test"},
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) > 1:
				return errors.New("schema prints one: name rules or tests")
			case len(args) == 1 && schemas[args[0]] == nil:
				return fmt.Errorf("there is no schema %q: rules, which is meant where none is named, or tests", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			_, err := cmd.OutOrStdout().Write(schemas[append(args, "rules")[0]]()) // that of rules where none is named
			return err
		},
	}
}
