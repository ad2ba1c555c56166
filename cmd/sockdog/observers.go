package main

import (
	"github.com/spf13/cobra"

	"github.com/sockdog/sockdog/internal/client"
)

// ageFlags say who is asked for ages of which the kernel knows less.
type ageFlags struct{ client.Observers }

func (f *ageFlags) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.Daemon, "daemon", client.DefaultAddress, "`address` to ask for ages, or off")
	cmd.Flags().StringVar(&f.StateDir, "state-dir", stateDirectory(), "state `directory` of a sockdog, which also has ages")
}

// check checks the flags, once they are parsed.
func (f *ageFlags) check(cmd *cobra.Command) error {
	f.Named = cmd.Flags().Changed("daemon")
	if client.Off(f.Daemon) {
		return nil
	}
	return asUsage(checkHostPort("--daemon", "HOST:PORT or off", f.Daemon))
}
