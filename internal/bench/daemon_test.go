package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
)

// started is a running `sockdog run`.
type started struct {
	b   *testing.B
	cmd *exec.Cmd
	log *bufio.Scanner
}

// start runs a build of sockdog with one rule that kills and waits until it watches.
func start(b *testing.B, sockdog, settings, match string, flags ...string) *started {
	b.Helper()
	return startRule(b, sockdog, settings, "match: {"+match+"}, then: [{kill: {limit: 10000/1m, canary: off, max_matches: 1000000}}]", flags...)
}

// startRule runs a build of sockdog with one rule and waits until it watches.
func startRule(b *testing.B, sockdog, settings, rule string, flags ...string) *started {
	b.Helper()
	file := filepath.Join(b.TempDir(), "rules.yaml")
	if err := os.WriteFile(file, []byte("settings: {"+settings+"}\nrules: [{name: bench, "+rule+"}]\n"), 0o644); err != nil {
		b.Fatal(err)
	}
	// Builds from before there was a control socket have no such flag.
	if help, _ := exec.Command(sockdog, "run", "--help").CombinedOutput(); strings.Contains(string(help), "--control-socket") {
		flags = append(flags, "--control-socket", "off")
	}
	s := &started{b: b, cmd: exec.Command(sockdog, append([]string{"run", "--rules", file, "--log-format", "json"}, flags...)...)}
	out, err := s.cmd.StderrPipe()
	if err != nil {
		b.Fatal(err)
	}
	s.log = bufio.NewScanner(out)
	if err := s.cmd.Start(); err != nil {
		b.Fatal(err)
	}
	for s.log.Scan() {
		if strings.Contains(s.log.Text(), `"msg":"watching"`) {
			return s
		}
	}
	b.Fatal("sockdog ended before it watched")
	return nil
}

func (s *started) end() {
	s.cmd.Process.Signal(unix.SIGTERM)
	s.drain()
	s.cmd.Wait()
}

// drain reads what is left of the log, until it ends.
func (s *started) drain() {
	for s.log.Scan() {
	}
}

// cpu is the CPU time that it has used: clock_getcpuclockid(3), because utime counts
// in ticks, and most scans fall between two.
func (s *started) cpu() time.Duration {
	var used unix.Timespec
	if err := unix.ClockGettime(int32(^s.cmd.Process.Pid<<3|2), &used); err != nil {
		s.b.Fatal(err)
	}
	return time.Duration(used.Nano())
}

// resident is VmRSS in bytes.
func (s *started) resident() float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		s.b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	if err != nil {
		s.b.Fatal(err)
	}
	return kb * 1024
}

// A variant of sockdog is a build of it, and how it is run.
type variant struct {
	name, build string
	flags       []string
}

// variants are what is measured in turns: each source, and another build.
func variants(b *testing.B) (all []variant) {
	build := sockdog(b)
	all = []variant{{"sock_diag-", build, []string{"--source", "sock_diag"}}}
	if noEvents == nil {
		all = append(all, variant{"events-", build, []string{"--source", "events"}})
	}
	if *against != "" {
		all = append(all, variant{"before-", *against, nil})
	}
	return all
}

// BenchmarkIdle is what watching costs over a minute when there is nothing to do,
// without and with traffic. The variants watch side by side, by a rule that builds of long ago
// know, too.
func BenchmarkIdle(b *testing.B) {
	for _, traffic := range []bool{false, true} {
		b.Run(fmt.Sprint("traffic=", traffic), func(b *testing.B) {
			var running []*started
			all := variants(b)
			for i, v := range all {
				s := startRule(b, v.build, "", "match: {state: close-wait, in_state_for: 5m}, then: [log]", append(v.flags, "--listen", fmt.Sprint("127.0.0.1:", 9797+i))...)
				defer s.end()
				running = append(running, s)
			}
			if traffic {
				defer talk(b)()
			}
			time.Sleep(10 * time.Second) // what begins once is no part of it
			cores, resident := make([][]float64, len(all)), make([][]float64, len(all))
			for b.Loop() {
				for i, used := range spend(running, time.Minute) {
					cores[i] = append(cores[i], used)
					resident[i] = append(resident[i], running[i].resident()/1e6)
				}
			}
			for i, v := range all {
				report(b, v.name+"percent-of-core", cores[i])
				report(b, v.name+"MB-resident", resident[i])
			}
		})
	}
}

// spend returns what share of a processor each uses over a span, in percent.
func spend(running []*started, span time.Duration) (cores []float64) {
	began := time.Now()
	for _, s := range running {
		cores = append(cores, -s.cpu().Seconds())
	}
	time.Sleep(span)
	for i, s := range running {
		cores[i] = 100 * (cores[i] + s.cpu().Seconds()) / time.Since(began).Seconds()
	}
	return cores
}

// talk has a connection carry 1,000 round trips a second until it is told to end.
func talk(b *testing.B) (end func()) {
	listener, err := nstest.Listen(address())
	if err != nil {
		b.Fatal(err)
	}
	p, err := nstest.NewPair(listener)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer listener.Close()
		defer p.Close()
		for ; ctx.Err() == nil; time.Sleep(time.Millisecond) {
			if p.Client.Send(100) != nil || p.Server.Receive(100) != nil || p.Server.Send(100) != nil || p.Client.Receive(100) != nil {
				return
			}
		}
	}()
	return cancel
}

// BenchmarkDue is how late 1,000 sockets die that fall due at 1,000 different instants:
// without keepalives, and with them on in half of the sockets.
func BenchmarkDue(b *testing.B) {
	for _, keepalive := range []bool{false, true} {
		b.Run(fmt.Sprint("keepalive=", keepalive), func(b *testing.B) {
			all := variants(b)
			late := make([]lateness, len(all))
			for b.Loop() {
				for i, v := range all {
					late[i].measure(b, v, keepalive, 20*time.Second, func(context.Context) {})
				}
			}
			for i, v := range all {
				late[i].report(b, v.name)
			}
		})
	}
}

// dying is how many sockets lateness is measured by.
const dying = 1000

// lateness is how late 1,000 sockets died, and what that cost, in each round.
type lateness struct {
	half, most, all []float64 // ms, of 50, 99 and all of 100 at most
	early           []float64
	cores           []float64 // percent of one
}

func (l *lateness) report(b *testing.B, of string) {
	report(b, of+"late-p50-ms", l.half)
	report(b, of+"late-p99-ms", l.most)
	report(b, of+"late-max-ms", l.all)
	report(b, of+"early", l.early)
	report(b, of+"percent-of-core", l.cores)
}

// measure lets 1,000 sockets fall due one after the other while beside runs: from the
// instant before their peer closed, to the time in the log.
func (l *lateness) measure(b *testing.B, v variant, keepalive bool, bound time.Duration, beside func(context.Context)) {
	leak := leaking(b, 0)
	defer leak.end()
	s := start(b, v.build, "", fmt.Sprint("state: close-wait, in_state_for: ", bound), v.flags...)
	defer s.end()
	ctx, cancel := context.WithCancel(context.Background())
	var others sync.WaitGroup
	defer others.Wait()
	defer cancel()
	others.Go(func() { beside(ctx) })
	began, before := time.Now(), s.cpu()
	left := make(map[string][]time.Time) // by the address of sockets, one after the other, when their peers did
	for i := range dying {
		local, at, err := leak.add(keepalive && i%2 == 0)
		if err != nil {
			b.Fatal(err)
		}
		left[local.String()] = append(left[local.String()], at)
		time.Sleep(10 * time.Millisecond)
	}
	var late []time.Duration
	early := 0.0
	for len(late) < dying && s.log.Scan() {
		var line struct {
			Time        time.Time
			Result, Src string
		}
		if err := json.Unmarshal(s.log.Bytes(), &line); err != nil || line.Result != "done" {
			continue
		}
		of := left[line.Src]
		if len(of) == 0 {
			b.Fatalf("%s was killed more often than it was there", line.Src)
		}
		left[line.Src] = of[1:]
		over := line.Time.Sub(of[0]) - bound
		if over < 0 {
			early++
		}
		late = append(late, over)
	}
	if len(late) < dying {
		b.Fatalf("only %d of %d were killed", len(late), dying)
	}
	slices.Sort(late)
	l.half, l.most, l.all = append(l.half, ms(late[len(late)/2])), append(l.most, ms(late[len(late)*99/100])), append(l.all, ms(late[len(late)-1]))
	l.early, l.cores = append(l.early, early), append(l.cores, 100*(s.cpu()-before).Seconds()/time.Since(began).Seconds())
}
