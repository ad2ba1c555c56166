// Package bench measures sockdog at real size beside ss(8), in turns, in a private user
// and network namespace: hundreds of thousands of real sockets on loopback. As root, where
// eBPF can be had, it stays in the user namespace, and measures that, too. What it
// reports are medians; docs/performance.md says what they were.
//
//	go test ./internal/bench -bench . -benchtime 11x -timeout 1h
package bench

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/source/events"
)

var (
	sockets = flag.Int("sockets", 200_000, "how many `sockets` are in the table, both ends counted")
	against = flag.String("against", "", "another `build` of sockdog, which Scrapes and Wake measure in turns with this one")
	holder  = flag.String("holder", "", "internal: hold sockets on this `address`")
	stuck   = flag.Int("stuck", 0, "internal: how many `sockets` of a holder get stuck on order")
)

// dir is where the programs are that are measured.
var dir string

// noEvents says why there is no eBPF; then what needs it is skipped.
var noEvents error

func TestMain(m *testing.M) {
	events.BecomeLoader()
	flag.Parse()
	if *holder != "" {
		if err := hold(*holder, *sockets, *stuck); err != nil {
			panic(err)
		}
		return
	}
	programs, err := events.Load(1)
	if noEvents = err; err != nil {
		nstest.Main(suite{m})
	}
	programs.Close()
	nstest.MainAsRoot(suite{m})
}

type suite struct{ *testing.M }

func (s suite) Run() int {
	var err error
	if dir, err = os.MkdirTemp("", "sockdog-bench-"); err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	return s.M.Run()
}

// sockdog is the command, built as it is released. It is measured beside a full table.
func sockdog(b *testing.B) string {
	b.Helper()
	if err := fillTable(); err != nil {
		b.Fatal(err)
	}
	return sockdogAlone(b)
}

// sockdogAlone is the command, and the table stays as it is.
func sockdogAlone(b *testing.B) string {
	b.Helper()
	if err := buildOnce(); err != nil {
		b.Fatal(err)
	}
	return filepath.Join(dir, "sockdog")
}

var buildOnce = sync.OnceValue(func() error { return build("sockdog", "github.com/sockdog/sockdog/cmd/sockdog") })

// table are the processes that hold its sockets: one that nobody refers to would be told by
// the garbage collector, which closes its standard input, to end.
var table []*holding

var fillTable = sync.OnceValue(func() error {
	for held := 0; held < *sockets; held += perProcess {
		h, err := startHolder(min(perProcess, *sockets-held), 0, nil)
		if err != nil {
			return err
		}
		table = append(table, h)
	}
	return nil
})

func build(name, source string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, name), source)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", source, err, out)
	}
	return nil
}

// needEvents skips a benchmark of eBPF where there is none.
func needEvents(b *testing.B) {
	b.Helper()
	if noEvents != nil {
		b.Skip("needs eBPF: ", noEvents)
	}
}

// builds are those of sockdog that are measured in turns, by what a metric says of them.
func builds(b *testing.B) map[string]string {
	builds := map[string]string{"": sockdog(b)}
	if *against != "" {
		builds["before-"] = *against
	}
	return builds
}

// report reports the median of what was measured as a metric.
func report(b *testing.B, unit string, values []float64) (median float64) {
	slices.Sort(values)
	median = values[len(values)/2]
	b.ReportMetric(median, unit)
	b.ReportMetric(0, "ns/op") // of which a part is not measured
	return median
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
