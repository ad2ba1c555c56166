// Command bench measures sockdog at real size beside ss(8), in one run, in a
// private user and network namespace: hundreds of thousands of real sockets on
// loopback. It prints the table that stands in docs/performance.md.
//
//	go run ./internal/bench [-sockets 200000] [startup] [scan] [list] [kill] [killcommand] [idle] [due] [scrape] [wake]
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/nstest"
)

func main() {
	var b bench
	sockets := flag.Int("sockets", 200_000, "sockets in the table, both ends counted")
	flag.IntVar(&b.rounds, "rounds", 11, "how often each command is run; the median counts")
	flag.StringVar(&b.against, "against", "", "another build of sockdog, for scrape and wake to measure turn by turn")
	holder := flag.String("holder", "", "internal: hold sockets on this address")
	flag.Parse()
	if *holder != "" {
		exit(hold(*holder, *sockets))
	}
	inside, status, err := nstest.Enter()
	if err == nil && !inside {
		os.Exit(status)
	}
	if err == nil {
		err = b.measure(*sockets, flag.Args())
	}
	exit(err)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// bench is one run.
type bench struct {
	sockdog   string // the command under test
	against   string // another build of it; empty: none
	rounds    int
	addresses int // that were given out
}

func (b *bench) measure(sockets int, what []string) error {
	dir, err := os.MkdirTemp("", "sockdog-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b.sockdog = filepath.Join(dir, "sockdog")
	build := exec.Command("go", "build", "-tags", "nethttpomithttp2", "-trimpath", "-ldflags=-s -w", "-o", b.sockdog, "github.com/sockdog/sockdog/cmd/sockdog")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as it is released
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build sockdog: %w\n%s", err, out)
	}
	for held := 0; held < sockets; held += perProcess {
		end, err := b.startHolder(min(perProcess, sockets-held))
		if err != nil {
			return err
		}
		defer end()
	}
	fmt.Printf("| %d sockets in the table | sockdog | ss | ratio |\n|---|---|---|---|\n", sockets)
	for _, part := range []struct {
		name string
		run  func() error
	}{
		{"startup", b.startup}, {"scan", b.scan}, {"list", b.list}, {"kill", b.kill}, {"killcommand", b.killCommand},
		{"idle", b.idle}, {"due", b.due}, {"scrape", b.scrape}, {"wake", b.wake},
	} {
		if len(what) > 0 && !slices.Contains(what, part.name) {
			continue
		}
		if err := part.run(); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	return nil
}

// builds prints the head of a table that has a column for each build of sockdog that
// is measured, and returns those.
func (b *bench) builds(what string) []string {
	builds, head, line := []string{b.sockdog}, "\n| "+what+" | this build |", "|---|---|"
	if b.against != "" {
		builds, head, line = append(builds, b.against), head+" "+filepath.Base(b.against)+" |", line+"---|"
	}
	fmt.Println(head + "\n" + line)
	return builds
}

func median[T ~int64 | ~float64](values []T) T {
	slices.Sort(values)
	return values[len(values)/2]
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
