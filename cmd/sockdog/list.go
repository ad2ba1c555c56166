package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/sockdiag"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

func listCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "list [state STATE]...",
		Short: "List sockets with their age and a verdict",
		Long: `List the TCP sockets of this network namespace: all but listening ones, or those
in the given states. IN-STATE and IDLE are what the kernel knows now; ≥ marks a
lower bound, - what only observation could tell.`,
		Example: "  sockdog list\n  sockdog list state close-wait\n  sockdog list state fin-wait-1 state last-ack -o json",
		Args: func(_ *cobra.Command, args []string) error {
			_, err := statesOf(args)
			return err
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			states, err := statesOf(args)
			if err != nil {
				return usage{err}
			}
			if err := list(cmd.OutOrStdout(), states, output); err != nil {
				return problem(err)
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "`format`: table or json")
	return cmd
}

// statesOf reads "state close-wait state last-ack".
func statesOf(args []string) (ssfilter.StateSet, error) {
	if len(args) == 0 {
		return ssfilter.AllStates &^ ssfilter.Of(ssfilter.Listening), nil
	}
	var states ssfilter.StateSet
	for i := 0; i < len(args); i += 2 {
		if args[i] != "state" {
			if _, err := ssfilter.ParseState(args[i]); err == nil {
				return 0, fmt.Errorf("%q: write \"state %s\"", args[i], args[i])
			}
			return 0, fmt.Errorf("%q: only \"state NAME\" is supported so far", args[i])
		}
		if i+1 == len(args) {
			return 0, errors.New("\"state\" wants the name of one, such as close-wait")
		}
		set, err := ssfilter.ParseState(args[i+1])
		if err != nil {
			return 0, err
		}
		states |= set
	}
	return states, nil
}

// listed is a socket in -o json, under the names that the log uses.
type listed struct {
	State      string   `json:"state"`
	RQueue     uint32   `json:"rqueue"`
	WQueue     uint32   `json:"wqueue"`
	Src        string   `json:"src"`
	Dst        string   `json:"dst"`
	InStateFor *float64 `json:"in_state_for,omitempty"` // absent: only observation could tell
	IdleFor    *float64 `json:"idle_for,omitempty"`
	Bound      bool     `json:"bound"` // the ages are lower bounds
	Verdict    string   `json:"verdict,omitempty"`
	Netns      string   `json:"netns"`
	Cookie     uint64   `json:"cookie"`
	Inode      uint32   `json:"inode"`
	UID        *uint32  `json:"uid,omitempty"` // of a socket that has an inode
}

func listedOf(s *sock.Socket, got sock.Instant, netns string) listed {
	age := engine.AgeOf(s, nil, got, got, sockdiag.Precision())
	l := listed{
		State: s.State.String(), RQueue: s.RQueue, WQueue: s.WQueue, Src: s.Src.String(), Dst: s.Dst.String(),
		Bound: !age.Exact, Verdict: string(engine.Verdict(s)), Netns: netns, Cookie: s.ID.Cookie, Inode: s.Inode, UID: uidOf(s),
	}
	if age.Known {
		l.InStateFor, l.IdleFor = seconds(age.InState), seconds(age.Idle)
	}
	return l
}

// seconds is a duration as the log has it: never more than it was, to the
// millisecond.
func seconds(d time.Duration) *float64 {
	s := float64(d.Truncate(time.Millisecond)) / float64(time.Second)
	return &s
}

// uidOf is nil where the kernel reports uid 0 for want of a better.
func uidOf(s *sock.Socket) *uint32 {
	if s.Inode == 0 {
		return nil
	}
	uid := s.UID
	return &uid
}

// aged is a row of the table, which begins with what is stuck the longest.
type aged struct {
	age   time.Duration
	cells []string
}

func list(w io.Writer, states ssfilter.StateSet, output string) error {
	netns := netnsName()
	now, err := sock.Clock()
	if err != nil {
		return err
	}
	kernel, err := sockdiag.Open(now, nil)
	if err != nil {
		return err
	}
	defer kernel.Close()
	var rows []aged
	var objects []listed
	err = kernel.Look(sock.Query{States: states}, func(s *sock.Socket, got sock.Instant) {
		bounds := engine.AgeOf(s, nil, got, got, sockdiag.Precision())
		if output == "json" {
			objects = append(objects, listedOf(s, got, netns))
			return
		}
		age := func(d time.Duration) string {
			switch {
			case !bounds.Known:
				return "-"
			case bounds.Exact:
				return short(d)
			default:
				return "≥" + short(d)
			}
		}
		verdict := string(engine.Verdict(s))
		if verdict == "" {
			verdict = "-"
		}
		rows = append(rows, aged{bounds.InState, []string{
			strings.ToUpper(s.State.String()), strconv.Itoa(int(s.RQueue)), strconv.Itoa(int(s.WQueue)), s.Src.String(), s.Dst.String(), age(bounds.InState), age(bounds.Idle), verdict,
		}})
	})
	if err != nil {
		return err
	}
	if output == "json" {
		return printJSON(w, objects)
	}
	slices.SortStableFunc(rows, func(a, b aged) int { return cmp.Compare(b.age, a.age) })
	cells := make([][]string, len(rows))
	for i := range rows {
		cells[i] = rows[i].cells
	}
	return printTable(w, []string{"STATE", "RECV-Q", "SEND-Q", "LOCAL", "PEER", "IN-STATE", "IDLE", "VERDICT"}, cells)
}
