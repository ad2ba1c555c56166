package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"

	"github.com/spf13/cobra"

	"github.com/sockdog/sockdog/internal/client"
	"github.com/sockdog/sockdog/internal/statustext"
	"github.com/sockdog/sockdog/internal/term"
)

func statusCommand() *cobra.Command {
	var address, output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the status of a running sockdog",
		Long: `Ask a running sockdog for its status: problems, what each rule matches now, groups
close to their thresholds, sockets by state and the last actions. The exit status is
1 if there is a problem.

-o json prints what the daemon serves under /api/v1/status.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return showStatus(cmd.Context(), cmd.OutOrStdout(), address, output)
		},
	}
	addressFlag(cmd, &address, "address", "`address` that the daemon listens on")
	outputFlag(cmd, &output)
	return cmd
}

// showStatus prints the status of the daemon at an address.
func showStatus(ctx context.Context, out io.Writer, address, output string) error {
	text, s, err := client.Status(ctx, address)
	if err != nil {
		return err
	}
	if output == "json" {
		var indented bytes.Buffer
		json.Indent(&indented, text, "", "  ") // it was decoded: it is JSON
		_, err = indented.WriteTo(out)
	} else {
		err = statustext.Print(out, s, term.ScreenOf(out).Width)
	}
	if err != nil {
		return err
	}
	if len(s.Problems) > 0 {
		return errPrinted
	}
	return nil
}
