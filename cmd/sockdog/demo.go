package main

import (
	"github.com/spf13/cobra"

	"github.com/sockdog/sockdog/internal/demo"
)

func demoCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Make a leak in a private namespace and heal it",
		Long: `Start a program that leaks connections to its database in a private user and network
namespace, run sockdog on it, and tell what happens. This takes about seven seconds,
needs no root and touches nothing outside. The exit status is 0 only if the kernel's
table shows that exactly the leaked sockets are gone, and none before its time.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			healed, err := demo.Run(cmd.Context(), cmd.OutOrStdout())
			if err == nil && !healed {
				err = errPrinted
			}
			return err
		},
	}
	cmd.AddCommand(&cobra.Command{
		Use:    "shop",
		Short:  "The program that leaks",
		Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return demo.Shop(cmd.InOrStdin())
		},
	})
	return cmd
}
