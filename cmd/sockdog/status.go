package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/sockdog/sockdog/internal/client"
	"github.com/sockdog/sockdog/internal/control"
	"github.com/sockdog/sockdog/internal/status"
	"github.com/sockdog/sockdog/internal/statustext"
	"github.com/sockdog/sockdog/internal/term"
)

func statusCommand() *cobra.Command {
	var (
		address, output string
		ready           bool
		f               controlFlags
	)
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the status of a running sockdog",
		Long: `Ask a running sockdog for its status: problems, what each rule matches now, groups
close to their thresholds, sockets by state and the last actions. The exit status is
1 if there is a problem.

-o json prints what the daemon serves under /api/v1/status.

--ready asks only whether it is ready, as /readyz does: rules are in force, and one scan
of the socket table is done. The exit status is 0 if so, and the line says which rules are
in force if not those of the file; else it is 1, and one line says why. It asks by the
control socket, and where none answers at the address; if one of the two is named, only
there. So it is a probe for containers (exec) that also works where the daemon does not
listen.`,
		Example: "  sockdog status\n  sockdog status --ready --state-dir /var/lib/sockdog",
		RunE: func(cmd *cobra.Command, _ []string) error {
			named := func(flag string) bool { return cmd.Flags().Changed(flag) }
			bySocket := named("control-socket") || named("state-dir")
			switch {
			case !ready && bySocket:
				return usage{errors.New("--control-socket and --state-dir go with --ready: the status is read at --address")}
			case !ready:
				return showStatus(cmd.Context(), cmd.OutOrStdout(), address, output)
			case named("output"):
				return usage{errors.New("--ready prints one line: leave -o out")}
			case bySocket && named("address"):
				return usage{errors.New("--ready asks by the control socket or at the address: name one of them")}
			}
			return f.showReady(cmd, address, !named("address"), !bySocket)
		},
	}
	addressFlag(cmd, &address, "address", "`address` that the daemon listens on")
	outputFlag(cmd, &output)
	cmd.Flags().BoolVar(&ready, "ready", false, "only whether it is ready, as a probe")
	f.add(cmd, "state `directory` of the sockdog to ask with --ready, in which it has a control socket")
	return cmd
}

// readyWithin is for how long a daemon is asked whether it is ready.
const readyWithin = 5 * time.Second

// showReady prints that the daemon is ready, or fails: by its control socket, else by its
// page at the address, and only by one of them where the other is not to be asked.
func (f *controlFlags) showReady(cmd *cobra.Command, address string, askSocket, askPage bool) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), readyWithin)
	defer cancel()
	cmd.SetContext(ctx)
	var ready bool
	var instead string
	var err error
	switch {
	case !askSocket:
		ready, instead, err = client.Ready(ctx, address)
	case !askPage:
		ready, instead, err = f.ready(cmd)
	default:
		var bySocket error
		if ready, instead, bySocket = f.ready(cmd); bySocket != nil {
			if ready, instead, err = client.Ready(ctx, address); err != nil {
				err = fmt.Errorf("%w; %w", bySocket, err)
			}
		}
	}
	switch {
	case err != nil:
		return err
	case !ready:
		return fmt.Errorf("not ready: %s", status.NotReady)
	}
	text := "ready"
	if instead != "" {
		text += status.ReadyBut + term.Printable(instead)
	}
	fmt.Fprintln(cmd.OutOrStdout(), text)
	return nil
}

// ready asks by the control socket.
func (f *controlFlags) ready(cmd *cobra.Command) (ready bool, instead string, err error) {
	reply, err := f.ask(cmd, control.Request{Command: control.CommandReady}, nil)
	if err != nil {
		return false, "", err
	}
	return reply.Ready, reply.Instead, nil
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
