package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/sockdog/sockdog/internal/doctor"
	"github.com/sockdog/sockdog/internal/term"
)

func doctorCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Show what this kernel and these privileges allow, and how to get the rest",
		Long: `Find out, on sockets of its own, what this kernel and these privileges allow, and
print a cure for what is missing. The exit status is 1 if something is missing that
sockdog needs for its main job.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return examine(cmd.OutOrStdout(), output)
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

func examine(out io.Writer, output string) error {
	all := doctor.Examine()
	var err error
	if output == "json" {
		err = term.JSONOf(out, all)
	} else {
		err = doctor.Print(out, all, term.ScreenOf(out).Width)
	}
	if err != nil {
		return err
	}
	for _, x := range all {
		if x.Needed && !x.OK {
			return errPrinted
		}
	}
	return nil
}
