// Command bench measures sockdog at real size beside ss(8), in one run, in a
// private user and network namespace: hundreds of thousands of real sockets on
// loopback. It prints the table that stands in docs/performance.md.
//
//	go run ./internal/bench [-sockets 200000] [scan] [list] [kill] [killcommand] [idle] [due] [scrape] [wake]
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sockdog/sockdog/internal/nstest"
)

func main() {
	sockets := flag.Int("sockets", 200_000, "sockets in the table, both ends counted")
	rounds := flag.Int("rounds", 11, "how often each command is run; the median counts")
	against := flag.String("against", "", "another build of sockdog, for scrape and wake to measure turn by turn")
	holder := flag.String("holder", "", "internal: hold sockets on this address")
	flag.Parse()
	if *holder != "" {
		exit(hold(*holder))
	}
	inside, status, err := nstest.Enter()
	if err != nil {
		exit(err)
	}
	if !inside {
		os.Exit(status)
	}
	exit(measure(*sockets, bench{rounds: *rounds, against: *against}, flag.Args()))
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
	sockdog string // the command under test
	against string // another build of it; empty: none
	rounds  int
	crowd   []*crowd
}

// perProcess stays below 20,000, a common limit of descriptors.
const perProcess = 17_000

func measure(sockets int, b bench, what []string) error {
	dir, err := os.MkdirTemp("", "sockdog-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b.sockdog = filepath.Join(dir, "sockdog")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", b.sockdog, "github.com/sockdog/sockdog/cmd/sockdog")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as it is released
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build sockdog: %w\n%s", err, out)
	}
	defer b.disperse()
	for held := 0; held < sockets; held += perProcess {
		c, err := gather(len(b.crowd)+1, min(perProcess, sockets-held))
		if err != nil {
			return err
		}
		b.crowd = append(b.crowd, c)
	}
	wants := func(name string) bool { return len(what) == 0 || slices.Contains(what, name) }
	fmt.Printf("| %d sockets in the table | sockdog | ss | ratio |\n|---|---|---|---|\n", sockets)
	for _, part := range []struct {
		name string
		run  func() error
	}{{"scan", b.scan}, {"list", b.list}, {"kill", b.kill}, {"killcommand", b.killCommand}, {"idle", b.idle}, {"due", b.due}, {"scrape", b.scrape}, {"wake", b.wake}} {
		if !wants(part.name) {
			continue
		}
		if err := part.run(); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	return nil
}

func (b *bench) disperse() {
	for _, c := range b.crowd {
		c.end()
	}
}

// scan times a scan for 1,000 CLOSE_WAIT sockets among all, whole command
// against whole command, turn by turn.
func (b *bench) scan() error {
	leak, err := gather(scanLeak, 0)
	if err != nil {
		return err
	}
	defer leak.end()
	if err := leak.tell("leak 1000"); err != nil {
		return err
	}
	ours, theirs, err := b.sideBySide(
		[]string{b.sockdog, "list", "state", "close-wait"},
		[]string{"ss", "-Htni", "state", "close-wait"})
	if err != nil {
		return err
	}
	row("one scan for 1,000 in CLOSE_WAIT, whole command", ours, theirs)
	return nil
}

// sideBySide runs two commands in turn and returns the median of each. Both
// print all that they find, into nothing.
func (b *bench) sideBySide(ours, theirs []string) (time.Duration, time.Duration, error) {
	var took [2][]time.Duration
	for range b.rounds {
		for i, argv := range [][]string{ours, theirs} {
			cmd := exec.Command(argv[0], argv[1:]...)
			began := time.Now()
			if err := cmd.Run(); err != nil {
				return 0, 0, fmt.Errorf("%s: %w", strings.Join(argv, " "), err)
			}
			took[i] = append(took[i], time.Since(began))
		}
	}
	return median(took[0]), median(took[1]), nil
}

func median[T ~int64 | ~float64](values []T) T {
	slices.Sort(values)
	return values[len(values)/2]
}

func row(what string, ours, theirs time.Duration) {
	fmt.Printf("| %s | %.1f ms | %.1f ms | %.2f |\n", what, ms(ours), ms(theirs), float64(ours)/float64(theirs))
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
