package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/sockdog/sockdog/internal/action"
	"github.com/sockdog/sockdog/internal/client"
	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/holders"
	"github.com/sockdog/sockdog/internal/host"
	"github.com/sockdog/sockdog/internal/manualkill"
	"github.com/sockdog/sockdog/internal/selection"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/sockettable"
	"github.com/sockdog/sockdog/internal/source/node"
	"github.com/sockdog/sockdog/internal/term"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// killFlags are the flags of sockdog kill.
type killFlags struct {
	selection.Selection
	owners selection.Owners
	client.Observers
	yes, dryRun, inUse, bare bool
	olderThan, idle          time.Duration
	rules, output, via       string
}

const killLong = `Destroy the TCP sockets of this network namespace that match a filter, written as for
sockdog list and ss(8). The peer gets a reset, the program an error, and the
descriptor stays open until the program closes it. The sockets are shown first, and
nothing happens until you answer yes, or with --yes.

Each socket is looked up again just before it is destroyed. One that has ended, changed
its state or made progress meanwhile is not touched, nor is a new one with the same
addresses.

Never destroyed: listening sockets, sockets in an accept queue, connections of
Multipath TCP and their subflows, sockets that the kernel itself holds, and sockets
that the rules of --rules protect. Without --rules, ssh is protected: port 22 at either
end, unless the filter names it for that end. So are sockets for which the filter cannot
be decided, such as a cgroup in time-wait.

Destroyed with --in-use only: sockets with data left to send, those that sent data
within the last second or made progress within the time of --older-than. In every
state but close-wait, time-wait and a closed fin-wait-2 healthy connections exist too:
there, sockets must be idle for the time of --idle.

--process, --cmdline, --user, --unit, --container, --pod, --cgroup and --netns select by
owner, as these keys do in a rule's match: all processes that hold a socket must be
meant. * and ? are wildcards, but for --cmdline, which takes a regular expression (RE2),
and --user. Where it cannot be told who holds a socket, it is left alone. With --netns,
sockets of those network namespaces are destroyed in them, and else of this one alone.

--via says by which way sockets are reached, as in a rule: by SOCK_DESTROY (kernel), or
through the descriptor of a process that holds them (holder), which takes no
CAP_NET_ADMIN, but the right to that process's descriptors, and reaches no socket that no
process holds. By default it is the kernel's way, and the other on kernels without it.

For a socket that answers keepalives, the kernel keeps only a lower bound on its age. A
running sockdog has observed more, and is asked as by sockdog list. Sockets that
--older-than or --idle cannot judge even so are left alone, and counted.

RESULT (result in JSON) is done; gone, it had ended; changed, it came alive or is another
connection; failed; unconfirmed, the kernel still shows it; would, with --dry-run; or
left-alone, it was selected and is not touched. WHY (reason in JSON) says why.

Exit status: 0 no selected socket is left; 1 some are left or could not be judged;
2 wrong usage.`

func killCommand() *cobra.Command {
	var f killFlags
	cmd := &cobra.Command{
		Use:   "kill [flags] [state STATE]... [FILTER]",
		Short: "Destroy sockets by hand, after asking",
		Long:  killLong,
		Example: `  sockdog kill state close-wait dport = 5432
  sockdog kill --older-than 10m state close-wait
  sockdog kill --idle 2d state established dst 10.0.0.0/8
  sockdog kill --in-use --yes dst 10.1.2.3
  sockdog kill --process 'php-fpm*' state close-wait
  sockdog kill --netns blue --cgroup /system.slice/app.service state close-wait
  sockdog kill --tcp state CLOSE-WAIT '( dport = 22 or dst 1.1.1.1 )' --kill`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: completeFilter,
		RunE: func(cmd *cobra.Command, args []string) error {
			f.Named = cmd.Flags().Changed("daemon")
			if err := f.check(args); err != nil {
				return usage{err}
			}
			return f.kill(cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	selectionFlags(cmd, &f.Selection)
	ownerFlags(cmd, &f.owners, rules.OwnerKeys...)
	ageFlags(cmd, &f.Observers)
	accept(cmd, "kill", "K")
	wideOutputFlag(cmd, &f.output)
	oneOf(cmd, &f.via, "via", "", "`way` to the sockets: %s", "any\tthe first that the kernel has", "kernel\tSOCK_DESTROY", "holder\tthrough a process that holds them")
	rulesFlag(cmd, &f.rules, "rules `file` whose protect list applies")
	durationFlag(cmd, &f.olderThan, "older-than", "only sockets in their state for at least `duration`, such as 5m or 2d", "1m", "5m", "10m", "1h")
	durationFlag(cmd, &f.idle, "idle", "only sockets with nothing left to send and no progress for `duration`; allows live states", "1m", "10m", "1h", "1d")
	flags := cmd.Flags()
	flags.BoolVarP(&f.yes, "yes", "y", false, "do not ask first")
	flags.BoolVar(&f.dryRun, "dry-run", false, "say what would happen to each socket, and touch none")
	flags.BoolVar(&f.inUse, "in-use", false, "sockets in use, too: for a failover")
	flags.BoolVarP(&f.bare, "no-header", "H", false, "print no line of headings")
	return cmd
}

// perhapsDead are the states in which a socket may be dead. Of fin-wait-2 only a socket
// can tell, by its inode.
const perhapsDead = ssfilter.Dead | 1<<ssfilter.FinWait2

// check reads the filter and refuses what is too broad to be meant.
func (f *killFlags) check(args []string) error {
	if err := f.Parse(args); err != nil {
		return err
	}
	named, where := f.Filter.States, f.Filter.Where
	live := named &^ ssfilter.Unconnected &^ perhapsDead
	switch {
	case f.Listening || named != 0 && named&^ssfilter.Unconnected == 0:
		return errors.New("listening and unconnected sockets are never destroyed: end the program that has them")
	case named == 0 && where == nil && !f.owners.Given():
		return errors.New("kill what? Name a state, a port or an address, such as: sockdog kill state close-wait dport = 5432")
	case live != 0 && f.idle == 0 && !f.inUse:
		return fmt.Errorf("healthy connections are in %s, too: add --idle 1h for those idle that long, or --in-use for all", live)
	case named&^ssfilter.Unconnected&^ssfilter.Dead != 0 && (f.idle > 0 || f.inUse) && where == nil && !f.owners.Given():
		return fmt.Errorf("healthy connections are in %s, too: also name a port, an address or another filter", named&^ssfilter.Unconnected&^ssfilter.Dead)
	case f.idle > 0 && f.inUse:
		return errors.New("--idle spares sockets in use, and --in-use does not: use one of them")
	case !f.yes && !f.dryRun && !term.Is(os.Stdin):
		return errors.New("cannot ask, because standard input is no terminal: add --yes, or --dry-run to see what would be destroyed")
	}
	return nil
}

// protection is what is protected: by the file, or else ssh, which gives way at
// the end of which the filter itself names the port. Who names that of a peer does
// not mean those who are logged in here.
func (f *killFlags) protection(stderr io.Writer) ([]rules.Match, error) {
	if f.rules == "" {
		var ssh []rules.Match
		for _, side := range []ssfilter.Side{ssfilter.Src, ssfilter.Dst} {
			if !ssfilter.NamesPortOf(f.Filter.Where, side, rules.SSHPort) {
				port := ssfilter.Ports(side, ssfilter.PortRange{First: rules.SSHPort, Last: rules.SSHPort})
				ssh = append(ssh, rules.Match{States: ssfilter.AllStates, Where: port})
			}
		}
		return ssh, nil
	}
	set, err := loadRules(stderr, f.rules)
	if err != nil {
		return nil, err
	}
	return set.Protect, nil
}

// kill scans, shows, asks, destroys and prints what became of each.
func (f *killFlags) kill(stdout, stderr io.Writer) error {
	// A reader that goes away must not end this in the middle: the sum is still told.
	signal.Ignore(syscall.SIGPIPE)
	debug.SetGCPercent(400) // there will be little garbage, and the end is near
	ctx := untilSignal()
	h, err := host.Probe()
	if err != nil {
		return err
	}
	if err := f.Markless(h.Raised); err != nil {
		return fmt.Errorf("%w\ncure: %s", err, h.Cure())
	}
	known, err := f.Ask(ctx, h)
	if err != nil {
		return err
	}
	known.Warn(stderr)
	request := manualkill.Request{
		Query: f.Query(), OlderThan: f.olderThan, Idle: f.idle, InUse: f.inUse, DryRun: f.dryRun,
		Capabilities: h.Capabilities(), Memories: known.ByKey(), Precision: h.Precision, Self: os.Getpid(),
		Via: rules.Via(f.via), Descriptors: func() action.Descriptors { return host.Descriptors() },
	}
	if f.owners.Given() {
		request.Owners = &f.owners
	}
	if request.Protect, err = f.protection(stderr); err != nil {
		return err
	}
	runtime.LockOSThread() // never unlocked: it is this thread that may destroy
	kernel, open, err := f.open(h, stderr)
	if err != nil {
		return err
	}
	defer kernel.Close()
	targets, passed, err := request.Find(kernel, h.Now)
	if err != nil {
		return err
	}
	if targets, err = f.resolve(&request, targets, stderr); err != nil {
		return err
	}
	unjudged := known.Unjudged(passed.Unjudged)
	if len(targets) == 0 {
		fmt.Fprintln(stderr, f.nothing(ctx, passed))
	}
	if !f.yes && !f.dryRun && len(manualkill.Pending(targets)) > 0 {
		if targets, err = f.ask(ctx, stderr, &request, targets, unjudged); err != nil {
			return err
		}
	}
	pending := manualkill.Pending(targets)
	request.Destroy(ctx, pending, kernel, open)
	cure := h.Cure()
	if request.Way() == rules.ViaHolder {
		cure = h.Cures()[rules.Descriptor]
	}
	return f.tell(ctx, targets, unjudged, cure, stdout, stderr)
}

// open opens what is scanned, and what further threads look sockets up and destroy them by.
func (f *killFlags) open(h *host.Host, stderr io.Writer) (kernel manualkill.Kernel, more func() (manualkill.Destroyer, error), err error) {
	if !f.owners.AskNetns() {
		kernel, err = h.OpenKernel()
		return kernel, func() (manualkill.Destroyer, error) { return h.OpenKernel() }, err
	}
	all, named, err := openNamespaces(h, &f.owners, stderr)
	if err != nil {
		return nil, nil, err
	}
	scanner, err := all.OpenScanner()
	if err != nil {
		all.Close()
		return nil, nil, err
	}
	lookup, err := all.OpenLookup()
	if err != nil {
		all.Close()
		return nil, nil, err
	}
	return &namespaces{scanner, lookup, all, named}, func() (manualkill.Destroyer, error) { return all.OpenLookup() }, nil
}

// namespaces are the network namespaces of the host, for one thread.
type namespaces struct {
	*node.Scanner
	lookup *node.Lookup
	all    *node.Source
	named  []uint32 // inodes of those that are meant
}

// Scan is an error where one that is meant was left out: what it has is not known.
func (n *namespaces) Scan(q sock.Query, each func(s *sock.Socket, got sock.Instant)) error {
	err := n.Scanner.Scan(q, each)
	for _, inode := range n.named {
		if err == nil && !n.Reads(inode) {
			err = fmt.Errorf("network namespace %d cannot be read: it is gone, or a program keeps its table locked", inode)
		}
	}
	return err
}

func (n *namespaces) Lookup(ids []sock.ID, answers []sock.Answer) ([]sock.Answer, error) {
	return n.lookup.Lookup(ids, answers)
}

func (n *namespaces) Destroy(id sock.ID) error { return n.lookup.Destroy(id) }

func (n *namespaces) Close() error {
	err := n.Scanner.Close()
	n.all.Close()
	return err
}

// ask shows what is to be destroyed and asks for a yes. It returns the targets: who holds
// them is looked for again where that decides.
func (f *killFlags) ask(ctx context.Context, stderr io.Writer, request *manualkill.Request, targets []*manualkill.Target, unjudged []string) ([]*manualkill.Target, error) {
	pending := manualkill.Pending(targets)
	if err := manualkill.Show(stderr, pending, f.owners.AskNetns(), term.ScreenOf(stderr).Width); err != nil {
		return nil, err
	}
	for _, line := range append(manualkill.SumOf(targets, f.dryRun).Left(f.rules == ""), unjudged...) {
		fmt.Fprintln(stderr, line)
	}
	if err := confirm(ctx, stderr, os.Stdin, len(pending)); err != nil {
		return nil, err
	}
	if request.Owners == nil && !request.NeedsHolders() {
		return targets, nil
	}
	return f.resolve(request, targets, stderr) // a descriptor may have been passed on meanwhile
}

// nothing says that no socket was found.
func (f *killFlags) nothing(ctx context.Context, passed manualkill.Passed) string {
	where := ""
	if !f.owners.AskNetns() && watchesAll(f.DaemonStatus(ctx)) {
		where = "\nonly this network namespace was looked at, and the running sockdog watches all: sockdog list --namespaces shows those of all, and --netns kills in others"
	}
	more := passed.Young + passed.Unjudged
	if more == 0 {
		return "no socket is selected" + where
	}
	var bounds []string
	if f.olderThan > 0 {
		bounds = append(bounds, "--older-than")
	}
	if f.idle > 0 {
		bounds = append(bounds, "--idle")
	}
	return fmt.Sprintf("no socket is selected; without %s, %d would be%s", strings.Join(bounds, " and "), more, where)
}

// resolve finds the holders of those to be destroyed, for a person who is asked, where
// they are printed, and where all of /proc may be read, which shows what the kernel
// itself holds. Elsewhere nobody would learn anything from the walk. Where owners are
// meant, it finds those of all targets, and returns what may be theirs.
func (f *killFlags) resolve(request *manualkill.Request, targets []*manualkill.Target, stderr io.Writer) ([]*manualkill.Target, error) {
	pending := manualkill.Pending(targets)
	asked := pending
	if request.Owners != nil {
		asked = targets
	}
	inodes := manualkill.Inodes(asked)
	_, refused := os.Readlink(filepath.Join(host.ProcRoot, "1", "fd", "0"))
	var found holders.Found
	switch {
	case len(inodes) == 0:
	case request.Owners == nil && errors.Is(refused, fs.ErrPermission) && (f.yes || f.dryRun) && f.output == "table" && !request.NeedsHolders():
		return targets, nil
	default:
		var err error
		found, err = holders.FindAsking(host.ProcRoot, host.HolderPass(true), inodes, append(request.Cmdlines(), f.owners.Cmdlines()...))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			found = holders.Found{} // without /proc nobody knows the holders
		case err != nil:
			return nil, err
		case found.Hung != "":
			fmt.Fprintln(stderr, found.Hung)
		}
	}
	owned := engine.HoldersFound{Holders: found.Holders, Complete: found.Complete, Settled: found.Settled}
	if request.Owners != nil {
		targets = request.Own(targets, owned)
		pending = manualkill.Pending(targets)
	}
	request.Resolve(pending, owned)
	return targets, nil
}

// confirm asks for a yes.
func confirm(ctx context.Context, out io.Writer, in io.Reader, n int) error {
	fmt.Fprintf(out, "destroy %s? [y/N] ", term.Count(n, "socket"))
	answer := make(chan string, 1)
	go func() {
		line, err := bufio.NewReader(in).ReadString('\n')
		if err != nil {
			fmt.Fprintln(out) // the end of input is no yes
		}
		answer <- line
	}()
	select {
	case line := <-answer:
		switch strings.ToLower(strings.TrimSpace(line)) {
		case "y", "yes":
			return nil
		}
		return errors.New("nothing was destroyed")
	case <-ctx.Done():
		fmt.Fprintln(out)
		return interruption(ctx, "nothing was destroyed")
	}
}

// tell prints what became of each target and the sum, and says what of them is
// left, and why, and what could not be judged.
func (f *killFlags) tell(ctx context.Context, targets []*manualkill.Target, unjudged []string, cure string, stdout, stderr io.Writer) error {
	sum := manualkill.SumOf(targets, f.dryRun)
	var err error
	if f.output == "json" {
		err = manualkill.PrintJSON(stdout, targets, f.dryRun, time.Now())
	} else {
		view := sockettable.View{Headings: !f.bare, Holders: f.output == "wide", Netns: f.owners.AskNetns(), Cells: term.ScreenOf(stdout).Width}
		if err = manualkill.Print(stdout, targets, &view); err == nil {
			_, err = fmt.Fprintln(stdout, sum)
		}
	}
	text := append(sum.Left(f.rules == ""), unjudged...)
	if cure != "" && (f.dryRun || sum.Failed()) {
		text = append(text, "cure: "+cure)
	}
	if err != nil {
		text = append([]string{fmt.Sprintf("not everything could be printed: %v", err), sum.String()}, text...)
	}
	all := strings.Join(text, "\n")
	switch {
	case ctx.Err() != nil:
		return interruption(ctx, cmp.Or(all, sum.String()))
	case f.dryRun && err == nil && len(unjudged) == 0:
		if all != "" {
			fmt.Fprintln(stderr, all)
		}
		return nil
	case all != "":
		return errors.New(all)
	}
	return nil
}

// interrupted is the end by a signal.
type interrupted struct {
	signal syscall.Signal
	text   string // what became of the sockets all the same
}

func (i interrupted) Error() string { return "interrupted: " + i.text }

// interruption is what ended ctx.
func interruption(ctx context.Context, text string) interrupted {
	i, _ := errors.AsType[interrupted](context.Cause(ctx))
	i.text = text
	return i
}

// untilSignal returns a context that ends with a signal to end. A second signal
// ends the process at once, even if nobody reads what it writes.
func untilSignal() context.Context {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		s := <-signals
		signal.Stop(signals)
		cancel(interrupted{signal: s.(syscall.Signal)})
	}()
	return ctx
}
