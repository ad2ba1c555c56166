package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sockdog/sockdog/internal/capture"
	"github.com/sockdog/sockdog/internal/daemon"
	"github.com/sockdog/sockdog/internal/holders"
	"github.com/sockdog/sockdog/internal/host"
	"github.com/sockdog/sockdog/internal/recording"
	"github.com/sockdog/sockdog/internal/selection"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/term"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

const recordLong = `Write whole scans of the socket table to a file, for a time: of each socket what rules
match, and of each scan only what has changed since the last one. sockdog test --replay
says what rules would have done meanwhile.

A filter, written as for sockdog list, selects some sockets; without one it is all, in
all states. --namespaces looks into every network namespace of the host, --netns into
those of these names or numbers.

--holders walks through /proc at each scan, and records which processes hold each
socket, with their unit, container and pod: what rules with process, unit, container,
pod or fd_usage need. Command lines are never recorded.

--mask replaces addresses, the same by the same, with a key that is nowhere but in
memory. Ports stay, and so do loopback and unspecified addresses; private networks stay
private; addresses of one network are of one network again. Control groups and names of
network namespaces are left out. --mask-names replaces the names of processes, units,
containers and pods, too.

The file is the user's alone (mode 0600). Until it is whole it has .partial after its
name; if sockdog is killed, that can be read up to its last whole scan. A signal ends
the recording, which is then whole.`

// recordCommand records scans.
func recordCommand() *cobra.Command {
	r := record{plan: capture.Plan{For: 10 * time.Minute, Every: 5 * time.Second, MaxSize: 256 << 20}}
	cmd := &cobra.Command{
		Use:   "record [flags] -o FILE [state STATE]... [FILTER]",
		Short: "Record the socket table for a time, to try rules on it",
		Long:  recordLong,
		Example: `  sockdog record -o shop.rec
  sockdog record --for 1h --holders -o shop.rec dport = 5432
  sockdog test --replay shop.rec rules.yaml`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: completeFilter,
		RunE: func(cmd *cobra.Command, args []string) error {
			r.filter = r.selected(cmd, args)
			if err := r.check(args); err != nil {
				return usage{err}
			}
			return r.run(cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	selectionFlags(cmd, &r.Selection)
	cmd.Flags().Lookup("all").Hidden = true // as it is anyway
	refuse(cmd, "kill", "K", "write sockdog kill")
	cmd.Flags().StringVarP(&r.path, "out", "o", "", "`file` to write")
	completesFile(cmd, "out")
	durationFlag(cmd, &r.plan.For, "for", "`duration` of the recording (default 10m)", "10m", "1h", "1d")
	durationFlag(cmd, &r.plan.Every, "every", "`duration` between two scans (default 5s)", "1s", "5s", "15s")
	cmd.Flags().BoolVar(&r.holders, "holders", false, "record who holds each socket")
	cmd.Flags().BoolVar(&r.mask, "mask", false, "replace addresses")
	cmd.Flags().BoolVar(&r.names, "mask-names", false, "replace addresses and names")
	cmd.Flags().BoolVar(&r.force, "force", false, "overwrite the file")
	sizeFlag(cmd, &r.plan.MaxSize, "max-size", "end before the file exceeds this `size` (default 256MiB)", "64MiB", "256MiB", "1GiB")
	cmd.Flags().BoolVar(&r.all, "namespaces", false, "record every network namespace of the host")
	ownerFlags(cmd, &r.owners, "netns")
	return cmd
}

// sizeFlag adds a flag that takes a size, of which shells suggest some.
func sizeFlag(cmd *cobra.Command, size *int64, name, use string, some ...string) {
	units := map[string]int64{"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
	cmd.Flags().Func(name, use, func(text string) error {
		number := strings.TrimSuffix(strings.TrimSuffix(text, "B"), "i")
		digits := strings.TrimRight(number, "KMG")
		n, err := strconv.ParseInt(digits, 10, 64)
		unit, known := units[number[len(digits):]]
		if err != nil || !known || n < 1 || n > 1<<60/unit {
			return usage{fmt.Errorf("--%s is a size such as 64MiB, not %q", name, text)}
		}
		*size = n * unit
		return nil
	})
	completes(cmd, name, some...)
}

// record is what sockdog record is asked for.
type record struct {
	selection.Selection
	owners             selection.Owners
	plan               capture.Plan
	path, filter       string
	holders, all       bool
	mask, names, force bool
}

// leastEvery is how close two scans may be.
const leastEvery = 100 * time.Millisecond

func (r *record) check(filter []string) error {
	switch {
	case r.path == "":
		return errors.New("which file? Write -o FILE")
	case r.plan.For <= 0:
		return errors.New("--for is how long to record: more than 0")
	case r.plan.Every < leastEvery:
		return fmt.Errorf("--every is at least %v: a scan is not free", leastEvery)
	}
	if err := r.Parse(filter); err != nil {
		return err
	}
	if !r.Listening {
		r.All = true
	}
	r.mask, r.all = r.mask || r.names, r.all || r.owners.AskNetns()
	r.plan.Query = r.Query()
	return nil
}

// selected is what selects sockets, as it was written.
func (r *record) selected(cmd *cobra.Command, filter []string) string {
	var words []string
	for _, name := range []string{"ipv4", "ipv6", "listening", "netns"} {
		if f := cmd.Flags().Lookup(name); f.Changed {
			words = append(words, "--"+name+"="+f.Value.String())
		}
	}
	return strings.Join(append(words, filter...), " ")
}

// header says how the recording is made: of a masked one nothing that tells of the host.
func (r *record) header(h *host.Host) recording.Header {
	header := recording.Header{
		Sockdog: version(), Kernel: h.Release, Precision: h.Precision, Began: time.Now(), Every: r.plan.Every, All: r.all,
		States: recording.StateNames(r.plan.Query.States), Filter: r.filter, Holders: r.holders,
	}
	if origin, err := h.Origin(); err == nil && !r.mask {
		header.BootID = origin.BootID
	}
	if r.mask && r.filter != "" {
		header.Filter = "(masked)"
	}
	return header
}

func (r *record) run(out, stderr io.Writer) error {
	raiseForMarks(&r.Selection, stderr)
	h, err := host.New()
	if err != nil {
		return err
	}
	var mask *recording.Mask
	if r.mask {
		if mask, err = recording.NewMask(r.names); err != nil {
			return err
		}
	}
	source, end, err := r.open(h, stderr)
	if err != nil {
		return err
	}
	defer end()
	file, err := capture.Create(r.path, r.force)
	if err != nil {
		return err
	}
	meter := meter{out: stderr, plan: &r.plan}
	done, err := capture.Record(untilSignal(), file, r.header(h), mask, source, r.plan, meter.tell)
	meter.end()
	if done.Scans > 0 {
		fmt.Fprintf(out, "Recorded %s of %s in %s: %s in %s\n", term.Count(done.Scans, "scan"), term.Count(done.Sockets, "socket"),
			term.Short(done.Took.Round(100*time.Millisecond)), capture.Bytes(done.Size), r.path)
	}
	return err
}

// open opens what is recorded.
func (r *record) open(h *host.Host, stderr io.Writer) (from capture.Source, end func(), err error) {
	all, err := openSource(h, r.all, stderr)
	if err != nil {
		return from, nil, err
	}
	if err := all.State().LeftOut; err != nil {
		fmt.Fprintln(stderr, "sockdog: not all network namespaces are recorded:", oneLine(err))
	}
	if r.all {
		all.Start() // finding those that come
	}
	scanner, err := all.OpenScanner()
	if err != nil {
		all.Close()
		return from, nil, err
	}
	counts, err := all.OpenCounters()
	if err != nil {
		scanner.Close()
		all.Close()
		return from, nil, err
	}
	from = capture.Source{
		Now: h.Now, Scan: scanner.Scan, Ports: counts.Ports, Pressure: counts.Pressure,
		Means: func(s *sock.Socket) bool { return r.owners.Mean(s, nil) == ssfilter.True },
	}
	if r.holders {
		finder := holders.NewFinder(host.ProcRoot, host.LoadedHolderPass())
		from.Holders = func(inodes map[uint32]struct{}) (holders.Found, map[recording.Process]float64, error) {
			found, err := finder.Find(inodes)
			usage := make(map[recording.Process]float64)
			for p, percent := range daemon.FDUsage(found.Holders, func(h sock.Holder) (holders.Descriptors, error) { return holders.ReadDescriptorsOf(host.ProcRoot, h) }) {
				usage[recording.Process{PID: p.PID, Start: p.Start}] = percent
			}
			return found, usage, err
		}
	}
	return from, func() { counts.Close(); scanner.Close(); all.Close() }, nil
}

// meter shows how far a recording has come: on a terminal in a line that is written over, and
// elsewhere only what goes wrong.
type meter struct {
	out   io.Writer
	plan  *capture.Plan
	shown bool
}

func (m *meter) tell(p capture.Progress, failed error) {
	if failed != nil && p.Scans > 0 {
		m.end()
		fmt.Fprintln(m.out, "sockdog: a scan failed, and is left out:", failed)
	}
	if f, ok := m.out.(*os.File); !ok || !term.Is(f) {
		return
	}
	left := max(0, m.plan.For-p.Took).Round(time.Second)
	fmt.Fprintf(m.out, "\r\x1b[K%s of %s, %s, %s left", term.Count(p.Scans, "scan"), term.Count(p.Sockets, "socket"), capture.Bytes(p.Size), left)
	m.shown = true
}

// end ends the line.
func (m *meter) end() {
	if m.shown {
		fmt.Fprintln(m.out)
	}
	m.shown = false
}
