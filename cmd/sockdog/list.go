package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/sockdog/sockdog/internal/cgroup"
	"github.com/sockdog/sockdog/internal/daemon"
	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/holders"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/sockdiag"
)

// listing is what sockdog list is asked to do.
type listing struct {
	selection
	ageFlags
	output, sort, groupBy  string
	reverse, summary, bare bool
	watch                  time.Duration

	order order
	keys  []*column // of --group-by

	host   *host
	kernel daemon.Kernel
	crowd  crowd
	grid   *grid
	sorter *sorter
	adding sync.Mutex // to both, so that a page has the same place in them

	memories map[uint64]*sock.Memory // what others have observed, by cookie
	warned   bool
}

func listCommand() *cobra.Command {
	var l listing
	cmd := &cobra.Command{
		Use:   "list [flags] [state STATE]... [FILTER]",
		Short: "List sockets with their age and a verdict",
		Long: `List the TCP sockets of this network namespace that a filter selects, written as
for ss(8): states, and an expression over src, dst, sport, dport, dev, fwmark,
cgroup and autobound with and, or, not and parentheses. Where no state is named:
all but listening ones.

AGE is the time in the present state, IDLE that without progress. ≥ marks a lower
bound, which keepalives reset; - is what only observation could tell. A running
sockdog has observed more: it is asked on the address of --daemon, if it watches
this namespace and root, you or somebody with CAP_NET_ADMIN runs it, and its
--state-dir is read. VERDICT says why a socket is in CLOSE-WAIT:

  eof-unread           the program never read the end of the stream
  eof-read-not-closed  it read it, and forgot to close
  unread-data          there is data that it has not read
  still-sending        it is half-closed on purpose, and in use
  in-backlog           the program has stopped accepting

mptcp there marks a subflow of a Multipath TCP connection, in any state: what the
program holds is that connection, and its state is not the subflow's.

-o wide adds the number of the user, the process ([PID], and how many more hold
it), the device that it is bound to, the mark, the control group, inode and
cookie. What these privileges do not show is -: a mark takes CAP_NET_ADMIN, other
users' processes take CAP_SYS_PTRACE.

Where the terminal is too narrow, IDLE, SEND-Q, RECV-Q and an empty VERDICT are left
out in turn, then addresses are shortened, and then a STATE that all have in common,
LOCAL and VERDICT are left out: it fits 60 columns.

--sort takes one of these columns: the oldest and the most come first, all else
from the least on; with - before it, the other way round:
` + columnNames(sortable) + `.
--group-by takes some of
` + columnNames(groupable) + `.`,
		Example: `  sockdog list state close-wait
  sockdog list --tcp state CLOSE-WAIT '( dport = 22 or dst 1.1.1.1 )'
  sockdog list -o wide --sort recv-q dport = https
  sockdog list --group-by dst,dport state time-wait
  sockdog list --group-by process,verdict state close-wait
  sockdog list --watch=5s state close-wait
  sockdog list --summary`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: completeFilter,
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("watch") && len(args) > 0 && startsNumber(args[0]) {
				// "--watch 5s", which pflag takes for "--watch" and a filter: none begins
				// with a number.
				if err := cmd.Flags().Set("watch", args[0]); err != nil {
					return usage{err}
				}
				args = args[1:]
			}
			if err := l.check(cmd); err != nil {
				return usage{err}
			}
			if err := l.parse(args); err != nil {
				return err
			}
			if l.summary && !l.listening {
				l.all = true // a sum of all but some would be none
			}
			if err := l.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr()); err != nil {
				return problem(err)
			}
			return nil
		},
	}
	l.selection.flags(cmd)
	l.ageFlags.flags(cmd)
	l.elsewhere(cmd, elsewhere{name: "kill", letter: "K", instead: "write sockdog kill"})
	f := cmd.Flags()
	f.StringVarP(&l.output, "output", "o", "table", "`format`: table, wide or json")
	f.StringVar(&l.sort, "sort", "age", "`column` to sort by, such as recv-q")
	f.BoolVar(&l.reverse, "reverse", false, "sort the other way")
	f.StringVar(&l.groupBy, "group-by", "", "count by these `columns`, such as dst,dport")
	f.BoolVarP(&l.summary, "summary", "s", false, "count by state")
	f.Func("watch", "again and again, once in a `duration` at most, such as 5s", duration(&l.watch))
	f.Lookup("watch").NoOptDefVal = "2s"
	f.BoolVarP(&l.bare, "no-header", "H", false, "no line of headings")
	return cmd
}

// startsNumber reports whether a word begins as a duration does.
func startsNumber(word string) bool {
	return word != "" && word[0] >= '0' && word[0] <= '9' && !strings.ContainsAny(word, ":/")
}

// check makes sense of the flags together.
func (l *listing) check(cmd *cobra.Command) (err error) {
	set := cmd.Flags().Changed
	switch {
	case l.output != "table" && l.output != "wide" && l.output != "json":
		return fmt.Errorf("-o is table, wide or json, not %q (ss's -o shows timers: AGE and IDLE stand in the table)", l.output)
	case l.summary && (l.groupBy != "" || set("sort") || l.reverse):
		return errors.New("--summary has an order and groups of its own: leave out --sort, --reverse and --group-by")
	case l.groupBy != "" && (set("sort") || l.reverse):
		return errors.New("groups are sorted by their count: leave out --sort and --reverse")
	case (l.summary || l.groupBy != "") && l.output == "wide":
		return errors.New("-o wide is for single sockets: leave it out, or --group-by and --summary")
	}
	if err := l.ageFlags.check(cmd); err != nil {
		return err
	}
	if l.order, err = parseOrder(l.sort, l.reverse); err != nil {
		return err
	}
	l.keys, err = parseKeys(l.groupBy)
	return err
}

// run looks once, or again and again.
func (l *listing) run(ctx context.Context, out, stderr io.Writer) error {
	runtime.LockOSThread() // the capability that may be raised is the thread's
	if err := l.markless(sockdiag.RaiseNetAdmin()); err != nil {
		fmt.Fprintln(stderr, "sockdog:", err)
	}
	now, err := sock.Clock()
	if err != nil {
		return err
	}
	l.host = &host{now: now, precision: sockdiag.Precision(), cgroups: cgroup.New()}
	if l.kernel, err = l.host.openKernel(); err != nil {
		return err
	}
	defer l.kernel.Close()
	if l.watch > 0 {
		return l.again(ctx, out, stderr)
	}
	if err := l.scan(ctx, stderr); err != nil {
		return err
	}
	return l.print(out, screenOf(out))
}

// scan fills the crowd with the sockets that are there now, and the grid with
// their text where that is to be printed.
func (l *listing) scan(ctx context.Context, stderr io.Writer) error {
	if err := l.askAges(ctx, stderr); err != nil {
		return err
	}
	l.crowd.clear()
	l.grid, l.sorter = newGrid(l.columns(), !l.bare), &sorter{order: l.order}
	l.grid.kept = l.order.by
	sent := l.host.now()
	ask := scanner(func(kernel daemon.Kernel, q sock.Query, c *crowd, full func(page []row)) error {
		return kernel.Scan(q, func(s *sock.Socket, got sock.Instant) {
			c.add(s, engine.AgeOf(s, l.memories[s.ID.Cookie], sent, got, l.host.precision))
			if full != nil && c.size%pageRows == 0 {
				full(c.cut())
			}
		})
	})
	late := func(c *column) bool { return c.late }
	var err error
	two, worthIt := halves(l.query())
	switch {
	case len(l.grid.columns) == 0 || slices.ContainsFunc(l.grid.columns, late) || l.order.by.late:
		err = ask(l.kernel, l.query(), &l.crowd, nil)
	case worthIt:
		err = l.scanInHalves(two, ask)
	default:
		// While the kernel fills its next answer, other threads prepare the last.
		var preparing sync.WaitGroup
		err = ask(l.kernel, l.query(), &l.crowd, func(page []row) {
			preparing.Go(func() {
				l.prepare(&l.crowd, page)
				l.crowd.recycle(page)
			})
		})
		preparing.Wait()
	}
	if err != nil {
		return err
	}
	if l.walks() {
		found, err := holders.Find(procRoot, l.crowd.inodes())
		if err != nil {
			return err
		}
		l.crowd.holders = found.Holders
	}
	if !l.summary && l.groupBy == "" {
		for _, page := range l.crowd.pages {
			l.prepare(&l.crowd, page)
		}
	}
	return nil
}

// askAges has others say what they have observed, where ages are to be shown.
func (l *listing) askAges(ctx context.Context, stderr io.Writer) error {
	if l.summary {
		return nil
	}
	known, err := l.ask(ctx, l.host)
	if err != nil {
		return err
	}
	if l.memories = known.byCookie(); !l.warned {
		l.warned = true
		known.warn(stderr)
	}
	return nil
}

// prepare does with a page of rows what can be done before the last is there.
func (l *listing) prepare(c *crowd, page []row) {
	keys, cells := l.sorter.keys(c, page), l.grid.cells(c, page)
	l.adding.Lock()
	defer l.adding.Unlock()
	l.sorter.add(keys)
	l.grid.add(cells)
}

// columns are those of the table, if one is to be printed.
func (l *listing) columns() []*column {
	switch {
	case l.summary, l.groupBy != "", l.output == "json":
		return nil
	case l.output == "wide":
		return wide
	default:
		return usual
	}
}

// walks reports whether what is asked for takes a walk through /proc.
func (l *listing) walks() bool {
	held := func(c *column) bool { return c.held }
	switch {
	case l.summary:
		return false
	case l.groupBy != "":
		return slices.ContainsFunc(l.keys, held)
	default:
		return l.output != "table" || l.order.by.held
	}
}

// print prints what the scan found.
func (l *listing) print(out io.Writer, screen screen) error {
	switch {
	case l.summary:
		return l.printSummary(out, screen)
	case l.groupBy != "":
		return l.printGroups(out, screen)
	}
	rows := l.sorter.sort()
	if l.output == "json" {
		return printObjects(out, func(yield func(listed) bool) {
			netns := netnsName()
			for _, i := range rows {
				if !yield(listedOf(&l.crowd, l.crowd.row(i), netns)) {
					return
				}
			}
		})
	}
	if len(rows) > pageRows {
		widen(out)
	}
	l.grid.same, l.grid.empty = l.crowd.dull()
	return l.grid.print(out, rows, !l.bare, screen.width)
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
	MPTCP      bool     `json:"mptcp,omitempty"` // a subflow of such a connection
	Netns      string   `json:"netns"`
	Cookie     uint64   `json:"cookie"`
	Inode      uint32   `json:"inode"`
	UID        *uint32  `json:"uid,omitempty"` // of a socket that has an inode
	PID        int      `json:"pid,omitempty"` // the first that holds it
	Comm       string   `json:"comm,omitempty"`
	Dev        string   `json:"dev,omitempty"`
	Mark       *uint32  `json:"mark,omitempty"` // absent: not known
	Cgroup     string   `json:"cgroup,omitempty"`
}

func listedOf(c *crowd, r *row, netns string) listed {
	l := listed{
		State: r.state.String(), RQueue: r.rqueue, WQueue: r.wqueue, Src: c.endpoint(r, &r.src).String(), Dst: c.endpoint(r, &r.dst).String(),
		Bound: !r.exact, Verdict: string(verdicts[r.verdict]), MPTCP: r.mptcp, Netns: netns, Cookie: r.cookie, Inode: r.inode,
		Dev: c.device(r), Cgroup: c.names[r.cgroup],
	}
	if r.known {
		l.InStateFor, l.IdleFor = seconds(r.inState), seconds(r.idle)
	}
	if r.inode != 0 {
		l.UID = &r.uid
	}
	if r.hasMark {
		l.Mark = &r.mark
	}
	if held := c.holders[r.inode]; len(held) > 0 {
		l.PID, l.Comm = held[0].PID, held[0].Comm
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
