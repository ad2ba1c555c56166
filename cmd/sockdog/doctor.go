package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/holders"
	"github.com/sockdog/sockdog/internal/source/sockdiag"
	"github.com/sockdog/sockdog/internal/term"
)

func doctorCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what this kernel and these privileges allow, and how to get the rest",
		Long: `Try out, on sockets of its own, what this kernel and these privileges allow, and
print the cure for what is missing. The exit status is 1 if something that
sockdog needs for its main job is missing.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			return doctor(cmd.OutOrStdout(), output)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "`format`: table or json")
	return cmd
}

// examined is one thing that was tried out.
type examined struct {
	What    string `json:"what"`
	OK      bool   `json:"ok"`
	Needed  bool   `json:"needed"` // for the main job
	Finding string `json:"finding"`
	Cure    string `json:"cure,omitempty"`
}

func doctor(out io.Writer, output string) error {
	all := examine()
	var err error
	if output == "json" {
		err = term.JSONOf(out, all)
	} else {
		err = printExamined(out, all, term.ScreenOf(out).Width)
	}
	if err != nil {
		return problem(err)
	}
	for _, x := range all {
		if x.Needed && !x.OK {
			return found{}
		}
	}
	return nil
}

func printExamined(out io.Writer, all []examined, cells int) error {
	rows := term.NewTable(3, 2*len(all))
	rows.Layout.Wraps = true
	for _, x := range all {
		mark := "ok"
		switch {
		case !x.OK && x.Needed:
			mark = "FAIL"
		case !x.OK:
			mark = "warn"
		}
		rows.Row(mark, x.What, x.Finding)
		if x.Cure != "" {
			label := "cure"
			if x.OK {
				label = "better"
			}
			rows.Row("", "", label+": "+x.Cure)
		}
	}
	return rows.Print(out, cells)
}

func examine() []examined {
	h, err := openHost()
	if err != nil {
		return []examined{{What: "socket table", Needed: true, Finding: err.Error(), Cure: "a kernel with CONFIG_INET_DIAG and CONFIG_INET_TCP_DIAG (modprobe tcp_diag)"}}
	}
	all := []examined{{What: "kernel", OK: true, Finding: fmt.Sprintf("Linux %s, ages are known to within %s", h.release, h.precision)}}

	table := examined{What: "socket table", OK: true, Needed: true, Finding: "readable, both families in one walk"}
	if !h.capabilities.OneWalk {
		table.Finding = "readable, one walk for each family: a scan costs twice as much"
	}
	kill := examined{What: "kill", OK: h.capabilities.Destroy == nil, Needed: true, Finding: "works"}
	if !kill.OK {
		kill.Finding, kill.Cure = h.why(h.capabilities.Destroy), h.cure()
		if errors.Is(h.capabilities.Destroy, unix.EPERM) && errors.Is(h.raised, sockdiag.ErrNotPermitted) {
			why, _ := readPrivileges().missing()
			kill.Finding += ": " + why
		}
	}
	timeWait := examined{What: "kill in time-wait", OK: h.capabilities.DestroyTimeWait == nil, Finding: "works"}
	if !timeWait.OK {
		timeWait.Finding = h.whyTimeWait()
		if kill.OK {
			timeWait.Cure = "Linux 6.0 or later; nothing else needs it"
		}
	}
	orphans := examined{What: "kill of orphans", OK: orphansEnd(h.release), Finding: "works (Linux 6.11 or later)"}
	if !orphans.OK {
		orphans.Finding, orphans.Cure = "left alone: this kernel may leak an orphan that is destroyed", "Linux 6.11 or later"
	}
	return append(all, table, kill, timeWait, orphans, examineHolders(), examineCookie(), examineTable())
}

// examineHolders finds out whose descriptors can be read.
func examineHolders() examined {
	a, err := holders.Examine(procRoot)
	if err != nil {
		return examined{What: "owners", Finding: err.Error(), Cure: "mount /proc"}
	}
	return holdersExamined(&a)
}

// holdersExamined says what of the holders stays unknown, and why.
func holdersExamined(a *holders.Access) examined {
	x := examined{What: "owners", OK: a.Complete(), Finding: "every process of this host can be read"}
	if x.OK {
		return x
	}
	var found, cures []string
	if a.Refused > 0 {
		found = append(found, term.Printable(fmt.Sprintf("%d of %d processes cannot be read, the first is %s[%d]", a.Refused, a.Processes, a.First.Comm, a.First.PID)))
		if a.Privileged {
			cures = append(cures, "the capabilities are there and do not reach it: a security module (AppArmor, SELinux) or a user namespace protects it")
		} else {
			cures = append(cures, "CAP_DAC_READ_SEARCH and CAP_SYS_PTRACE for other users' processes")
		}
	}
	switch {
	case a.AllShown:
	case a.Contained:
		found = append(found, "those outside of this PID namespace are not shown")
		cures = append(cures, "shareProcessNamespace: true for those of the pod's other containers, hostPID: true for those of the host")
	default:
		found = append(found, "some are not shown")
		cures = append(cures, "mount /proc without hidepid, or CAP_SYS_PTRACE")
	}
	x.Finding = strings.Join(found, ", and ") + ": the sockets that those hold have no known holder"
	x.Cure = strings.Join(cures, "; ")
	return x
}

// examineCookie finds out whether first-seen times can be kept on disk.
func examineCookie() examined {
	if _, err := sockdiag.NetnsCookie(); err != nil {
		return examined{What: "memory on disk", Finding: "a restart forgets how long sockets with keepalives have been stuck: " + err.Error(), Cure: "Linux 5.14 or later"}
	}
	return examined{What: "memory on disk", OK: true, Finding: "possible, with --state-dir"}
}

// examineTable says what a scan walks through.
func examineTable() examined {
	const own = "/proc/sys/net/ipv4/tcp_child_ehash_entries"
	x := examined{What: "hash table", OK: true, Finding: "a scan walks the table of the whole host"}
	if _, err := os.Stat(own); err == nil {
		x.Cure = "a namespace made while net.ipv4.tcp_child_ehash_entries is set, to 1024 for example, has a small table of its own: a scan there costs microseconds"
	}
	return x
}
