package main

import (
	"github.com/spf13/cobra"

	"github.com/sockdog/sockdog/rules"
)

func schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of the rules file",
		Long:  "Print the JSON Schema of the rules file, for editors that check YAML while you type.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(rules.Schema())
			return err
		},
	}
}
