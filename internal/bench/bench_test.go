// Package bench measures sockdog at real size beside ss(8), in turns, in a private user
// and network namespace: hundreds of thousands of real sockets on loopback. What it
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
)

var (
	sockets = flag.Int("sockets", 200_000, "how many `sockets` are in the table, both ends counted")
	against = flag.String("against", "", "another `build` of sockdog, which Scrapes and Wake measure in turns with this one")
	holder  = flag.String("holder", "", "internal: hold sockets on this `address`")
)

// dir is where the programs are that are measured.
var dir string

func TestMain(m *testing.M) {
	flag.Parse()
	if *holder != "" {
		if err := hold(*holder, *sockets); err != nil {
			panic(err)
		}
		return
	}
	nstest.Main(suite{m})
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
	if err := prepare(); err != nil {
		b.Fatal(err)
	}
	return filepath.Join(dir, "sockdog")
}

var prepare = sync.OnceValue(func() error {
	if err := build("sockdog", "github.com/sockdog/sockdog/cmd/sockdog"); err != nil {
		return err
	}
	for held := 0; held < *sockets; held += perProcess {
		if err := startHolder(min(perProcess, *sockets-held)); err != nil {
			return err
		}
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
