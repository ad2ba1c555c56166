package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/sockdog/sockdog/internal/client"
	"github.com/sockdog/sockdog/internal/counters"
	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/track"
	"github.com/sockdog/sockdog/internal/holders"
	"github.com/sockdog/sockdog/internal/host"
	"github.com/sockdog/sockdog/internal/selection"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/sockettable"
	"github.com/sockdog/sockdog/internal/term"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// listing is what sockdog list is asked to do.
type listing struct {
	selection.Selection
	owners selection.Owners
	client.Observers
	output, sort, groupBy string
	fields                string
	reverse, bare         bool
	watch                 time.Duration
	view                  sockettable.View

	host   *host.Host
	kernel scanner
	find   func(inodes map[uint32]struct{}) (holders.Found, error)
	warned bool
	hung   string // whose command lines could not be read: told last
	untold int    // sockets of which it could not be told whether owners mean them: told last
}

// scanner reads the sockets of one network namespace, or of all.
type scanner interface {
	Scan(q sock.Query, each func(s *sock.Socket, got sock.Instant)) error
	// ScanMPTCP is as for sockdiag.Conn.
	ScanMPTCP(q sock.Query, each func(s *sock.Socket, got sock.Instant)) (known bool, err error)
	Close() error
}

const listLong = `List the TCP sockets of this network namespace, or with --namespaces of all of the
host, that match a filter. It is written as for ss(8): states, then an expression over
src, dst, sport, dport, dev, fwmark, cgroup and autobound, with and, or, not and
parentheses. If no state is named, all sockets but listening ones are listed.

AGE is the time in the present state, IDLE the time without progress. ≥ marks a lower
bound, which keepalives reset; - means that only observation could tell. So a running
sockdog is asked on the address of --daemon, if it watches this namespace and is run by
root, by you or by somebody with CAP_NET_ADMIN; and its --state-dir is read. VERDICT
says why a socket is in CLOSE-WAIT:

  eof-unread           the program never read the end of the stream
  eof-read-not-closed  the program read it, and forgot to close
  unread-data          there is data that the program has not read
  still-sending        the connection is half-closed on purpose, and in use
  in-backlog           the program has stopped accepting

In the same column mptcp is a connection of Multipath TCP, which a program holds, and
subflow one of the TCP connections that it consists of, whose state may be another.
Of the former the kernel tells no age. mptcp-listener listens for both sorts, as what
is written in Go does by default.

--process, --cmdline, --user, --unit, --container, --pod, --cgroup and --netns select by
owner, as these keys do in a rule's match: all processes that hold a socket must be
meant, of those that can be read. * and ? are wildcards, but for --cmdline, which takes
a regular expression (RE2), and --user. --netns looks into all network namespaces.

With --namespaces, NETNS is what ip-netns(8) calls the network namespace of a socket,
or else its number. To enter others takes CAP_SYS_ADMIN, and CAP_SYS_PTRACE to find
those of other users' processes.

Where the terminal has room, PROCESS names who holds a socket.

-o wide adds the user id, the process ([PID], and how many more hold the socket), its
pod where one is known, the bound device, mark, control group, inode and cookie. What
your privileges do not show is -: a mark takes CAP_NET_ADMIN, processes of other users
take CAP_SYS_PTRACE.

On a narrow terminal IDLE, SEND-Q, RECV-Q and an empty VERDICT are left out in turn,
then addresses are shortened, then a STATE common to all, LOCAL and VERDICT are left
out: the table fits 60 columns.

--fields chooses what -o json has of each socket. Without pid, comm, holders,
unit, container and pod it is not looked for who holds it, which takes longer than all
the rest. holders are all processes of a socket that several hold.

--sort takes one of these columns. Ages and queues sort from the highest, all others
from the lowest; a - before the name reverses that:
`

func listCommand() *cobra.Command { return listCommandOf(&listing{}) }

// listCommandOf is the command that does what l is asked to.
func listCommandOf(l *listing) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list [flags] [state STATE]... [FILTER]",
		Short: "List sockets with their age and a verdict",
		Long:  listLong + columnNames(sockettable.Sortable()) + ".\n--group-by takes one or more of\n" + columnNames(sockettable.Groupable()) + ".\n--fields takes one or more of\n" + columnNames(sockettable.FieldNames()) + ".",
		Example: `  sockdog list state close-wait
  sockdog list --tcp state CLOSE-WAIT '( dport = 22 or dst 1.1.1.1 )'
  sockdog list -o wide --sort recv-q dport = https
  sockdog list --group-by dst,dport state time-wait
  sockdog list --group-by process,verdict state close-wait
  sockdog list -o json --fields dst,in_state_for state close-wait
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
			if err := l.check(cmd, args); err != nil {
				return usage{err}
			}
			return l.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	selectionFlags(cmd, &l.Selection)
	ageFlags(cmd, &l.Observers)
	ownerFlags(cmd, &l.owners, rules.OwnerKeys...)
	refuse(cmd, "kill", "K", "write sockdog kill")
	wideOutputFlag(cmd, &l.output)
	durationFlag(cmd, &l.watch, "watch", "repeat, at most once every `duration`, such as 5s", "1s", "2s", "5s", "10s")
	f := cmd.Flags()
	f.Lookup("watch").NoOptDefVal = "2s"
	f.BoolVar(&l.view.Netns, "namespaces", false, "those of every network namespace of the host")
	f.StringVar(&l.sort, "sort", "age", "`column` to sort by, such as recv-q")
	completesBy(cmd, "sort", cobra.ShellCompDirectiveNoFileComp, sortWords)
	f.StringVar(&l.groupBy, "group-by", "", "count sockets by `columns`, such as dst,dport")
	completesBy(cmd, "group-by", cobra.ShellCompDirectiveNoSpace, listWords(sockettable.Groupable))
	f.StringVar(&l.fields, "fields", "", "`keys` of each socket in -o json, such as dst,comm")
	completesBy(cmd, "fields", cobra.ShellCompDirectiveNoSpace, listWords(sockettable.FieldNames))
	f.BoolVar(&l.reverse, "reverse", false, "reverse the order")
	f.BoolVarP(&l.view.Summary, "summary", "s", false, "count sockets by state")
	f.BoolVarP(&l.bare, "no-header", "H", false, "print no line of headings")
	return cmd
}

// startsNumber reports whether a word begins as a duration does.
func startsNumber(word string) bool {
	return word != "" && word[0] >= '0' && word[0] <= '9' && !strings.ContainsAny(word, ":/")
}

// check makes sense of the flags together, and of the filter.
func (l *listing) check(cmd *cobra.Command, filter []string) (err error) {
	set := cmd.Flags().Changed
	switch {
	case l.view.Summary && (l.groupBy != "" || set("sort") || l.reverse):
		return errors.New("--summary has an order and groups of its own: leave out --sort, --reverse and --group-by")
	case l.groupBy != "" && (set("sort") || l.reverse):
		return errors.New("groups are sorted by their count: leave out --sort and --reverse")
	case (l.view.Summary || l.groupBy != "") && l.output == "wide":
		return errors.New("-o wide is for single sockets: leave it out, or --group-by and --summary")
	case l.fields != "" && (l.output != "json" || l.view.Summary || l.groupBy != ""):
		return errors.New("--fields chooses what -o json has of single sockets: add -o json, and leave out --group-by and --summary")
	}
	l.Named = set("daemon")
	l.view.Netns = l.view.Netns || l.owners.AskNetns()
	l.All = l.All || l.view.Summary && !l.Listening // a sum of all but some would be none
	l.view.JSON, l.view.Wide, l.view.Headings = l.output == "json", l.output == "wide", !l.bare
	if l.view.Order, err = sockettable.ParseOrder(l.sort, l.reverse); err != nil {
		return withNearest(err)
	}
	if l.view.Keys, err = sockettable.ParseKeys(l.groupBy); err != nil {
		return withNearest(err)
	}
	if l.view.Fields, err = sockettable.ParseFields(l.fields); err != nil {
		return withNearest(err)
	}
	return l.Parse(filter)
}

// withNearest names the column that is nearest to one that there is not, and all.
func withNearest(err error) error {
	var unknown *sockettable.UnknownColumn
	if !errors.As(err, &unknown) {
		return err
	}
	if near := nearest(unknown.Name, unknown.Names); near != "" {
		return fmt.Errorf("%w: did you mean %s? There are\n%s", err, near, columnNames(unknown.Names))
	}
	return fmt.Errorf("%w: there are\n%s", err, columnNames(unknown.Names))
}

// nearest is the one of some names that is nearest to what was written; "": none is near.
func nearest(written string, names []string) string {
	var all cobra.Command // which knows how to suggest a name
	for _, name := range names {
		all.AddCommand(&cobra.Command{Use: name, Run: func(*cobra.Command, []string) {}})
	}
	for all.SuggestionsMinimumDistance = 1; all.SuggestionsMinimumDistance <= 2; all.SuggestionsMinimumDistance++ {
		if list := all.SuggestionsFor(written); len(list) > 0 {
			return list[0]
		}
	}
	return ""
}

// columnNames lists names, in lines that fit a terminal.
func columnNames(names []string) string {
	return strings.Join(term.Wrap(strings.Join(names, ", "), 79), "\n")
}

// run scans once, or again and again.
func (l *listing) run(ctx context.Context, out, stderr io.Writer) error {
	raiseForMarks(&l.Selection, stderr)
	var err error
	if l.host, err = host.New(); err != nil {
		return err
	}
	finder := holders.NewFinder(host.ProcRoot, host.HolderPass(false))
	if err := finder.AskCmdlines(l.owners.Cmdlines()); err != nil {
		return err
	}
	l.find = finder.Find
	end, err := l.open(stderr)
	if err != nil {
		return err
	}
	defer end()
	if l.watch > 0 {
		return l.again(ctx, out, stderr)
	}
	debug.SetGCPercent(1000) // there will be little garbage, and the end is near
	l.view.Cells = term.ScreenOf(out).Width
	table, err := l.scan(ctx, stderr)
	if err != nil {
		return err
	}
	if err := l.print(out, table); err != nil {
		return err
	}
	if table.Len() == 0 && !l.view.Netns && watchesAll(l.DaemonStatus(ctx)) {
		fmt.Fprintln(stderr, "sockdog: only this network namespace was looked at, and the running sockdog watches all: sockdog list --namespaces shows those of all")
	}
	return nil
}

// open opens what is scanned.
func (l *listing) open(stderr io.Writer) (end func(), err error) {
	if !l.view.Netns {
		kernel, err := l.host.OpenKernel()
		l.kernel = kernel
		return func() { kernel.Close() }, err
	}
	all, _, err := openNamespaces(l.host, &l.owners, stderr)
	if err != nil {
		return nil, err
	}
	if l.watch > 0 {
		all.Start() // finding those that come
	}
	if l.kernel, err = all.OpenScanner(); err != nil {
		all.Close()
		return nil, err
	}
	return func() { l.kernel.Close(); all.Close() }, nil
}

// oneLine is an error that is several, in a line.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// scan returns the sockets that are there now.
func (l *listing) scan(ctx context.Context, stderr io.Writer) (*sockettable.Table, error) {
	var memories map[sock.Key]*sock.Memory
	if !l.view.Summary {
		known, err := l.Ask(ctx, l.host)
		if err != nil {
			return nil, err
		}
		if memories = known.ByKey(); !l.warned {
			l.warned = true
			known.Warn(stderr)
		}
	}
	var table sockettable.Table
	sent := l.host.Now()
	err := l.kernel.Scan(l.Query(), func(s *sock.Socket, got sock.Instant) {
		table.Add(s, track.AgeOf(s, memories[s.ID.Key()], sent, got, l.host.Precision))
	})
	if err != nil {
		return nil, err
	}
	err = scanMPTCP(l.kernel, l.Query(), func(s *sock.Socket, _ sock.Instant) { table.AddMPTCP(s) })
	if err != nil {
		return nil, err
	}
	l.view.Room = table.HasRoom(&l.view)
	var found holders.Found
	if inodes := table.Inodes(); len(inodes) > 0 && (l.view.Walks() || l.owners.AskHolders()) {
		found, err = l.find(inodes)
		table.Holders = found.Holders
	}
	if found.Hung != l.hung {
		if l.hung = found.Hung; l.hung != "" {
			fmt.Fprintln(stderr, "sockdog:", l.hung)
		}
	}
	if err == nil && l.owners.Given() {
		l.keepOwned(&table, &found, stderr)
	}
	return &table, err
}

// scanMPTCP scans for connections of Multipath TCP: not for listeners, which have but one
// subflow each, of the same state.
func scanMPTCP(kernel scanner, q sock.Query, each func(s *sock.Socket, got sock.Instant)) error {
	if q.States &^= ssfilter.Of(ssfilter.Listening); q.States == 0 {
		return nil
	}
	_, err := kernel.ScanMPTCP(q, each)
	return err
}

// keepOwned keeps the sockets of those that are meant, and says of how many it cannot be told.
// It goes by the processes that can be read, where one of them holds a socket: who lists does
// no harm, and seldom may read them all.
func (l *listing) keepOwned(table *sockettable.Table, found *holders.Found, stderr io.Writer) {
	untold := 0
	table.Keep(func(s *sock.Socket) bool {
		held := engine.HoldersFound{Holders: found.Holders, Complete: found.Complete || len(found.Holders[s.Inode]) > 0}
		means := l.owners.Mean(s, held.Of(s.Inode))
		if means == ssfilter.Unknown {
			untold++
		}
		return means == ssfilter.True
	})
	if untold != l.untold && untold > 0 {
		fmt.Fprintf(stderr, "sockdog: of %s it cannot be told whose they are: they are left out (sockdog doctor says why)\n", term.Count(untold, "socket"))
	}
	l.untold = untold
}

// print prints what a scan found.
func (l *listing) print(out io.Writer, table *sockettable.Table) error {
	if err := table.Print(out, &l.view); err != nil || !l.view.Summary || l.view.JSON || l.bare {
		return err
	}
	return printHost(out)
}

// printHost prints what the kernel counts for the whole host, without a scan.
func printHost(out io.Writer) error {
	reader, err := counters.Open()
	if err != nil {
		return err
	}
	defer reader.Close()
	h, ok, err := reader.ReadHost()
	if err != nil || !ok {
		return err
	}
	_, err = fmt.Fprintf(out, "\nThe whole host: %s, %d KiB of memory in TCP buffers\n",
		term.Count(int(h.Orphans), "orphan"), h.BufferPages*uint64(os.Getpagesize()/1024))
	return err
}

// watchShare is how many times as long as a scan took the next one waits at
// least: watching must not become the load that it looks for.
const watchShare = 20

// again scans and prints until a signal ends it.
func (l *listing) again(ctx context.Context, out, stderr io.Writer) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	context.AfterFunc(ctx, stop) // a second one ends it at once, even if nobody reads what it writes
	var text bytes.Buffer
	for first := true; ; first = false {
		began := time.Now()
		screen := term.ScreenOf(out)
		l.view.Cells = screen.Width
		table, err := l.scan(ctx, stderr)
		if err != nil {
			return err
		}
		text.Reset()
		if err := l.print(&text, table); err != nil {
			return err
		}
		wait := max(l.watch-time.Since(began), watchShare*time.Since(began))
		frame := text.Bytes()
		if !l.view.JSON {
			frame = screen.Frame(began, term.Count(table.Len(), "socket"), frame, first)
		}
		if _, err := out.Write(frame); err != nil {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
	}
}
