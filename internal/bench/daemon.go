package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
)

// started is a running `sockdog run`.
type started struct {
	cmd *exec.Cmd
	log *bufio.Scanner
}

// start runs a build of sockdog with one rule and waits until it watches.
func (b *bench) start(sockdog, settings, match string) (*started, error) {
	file := filepath.Join(filepath.Dir(b.sockdog), "rules.yaml")
	rules := "settings: {" + settings + "}\nrules:\n  - name: bench\n    match: {" + match + "}\n    then: [{kill: {limit: 10000/1m}}]\n"
	if err := os.WriteFile(file, []byte(rules), 0o644); err != nil {
		return nil, err
	}
	s := &started{cmd: exec.Command(sockdog, "run", "--rules", file, "--log-format", "json")}
	out, err := s.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	s.log = bufio.NewScanner(out)
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	for s.log.Scan() {
		if strings.Contains(s.log.Text(), `"msg":"watching"`) {
			return s, nil
		}
	}
	s.end()
	return nil, errors.New("sockdog ended before it watched")
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
func (s *started) cpu() (time.Duration, error) {
	var used unix.Timespec
	err := unix.ClockGettime(int32(^s.cmd.Process.Pid<<3|2), &used)
	return time.Duration(used.Nano()), err
}

// resident is VmRSS in bytes.
func (s *started) resident() (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	return kb * 1024, err
}

// idle measures what watching costs when there is nothing to do.
func (b *bench) idle() error {
	s, err := b.start(b.sockdog, "", "state: close-wait, in_state_for: 5m")
	if err != nil {
		return err
	}
	defer s.end()
	const span = time.Minute
	for _, traffic := range []string{"without", "with"} {
		if traffic == "with" {
			if err := b.talk(span + 5*time.Second); err != nil {
				return err
			}
		}
		before, err := s.cpu()
		if err != nil {
			return err
		}
		time.Sleep(span)
		after, err := s.cpu()
		if err != nil {
			return err
		}
		rss, err := s.resident()
		if err != nil {
			return err
		}
		fmt.Printf("| `sockdog run`, a 5 m rule, nothing to do, over a minute %s traffic | %.3f %% of a core, %.1f MB resident | | |\n",
			traffic, 100*(after-before).Seconds()/span.Seconds(), float64(rss)/1e6)
	}
	return nil
}

// talk has a connection carry 1,000 round trips a second for a while.
func (b *bench) talk(span time.Duration) error {
	listener, err := nstest.Listen(b.address())
	if err != nil {
		return err
	}
	p, err := nstest.NewPair(listener)
	if err != nil {
		return err
	}
	go func() {
		defer p.Close()
		for began := time.Now(); time.Since(began) < span; time.Sleep(time.Millisecond) {
			if p.Client.Send(100) != nil || p.Server.Receive(100) != nil || p.Server.Send(100) != nil || p.Client.Receive(100) != nil {
				return
			}
		}
	}()
	return listener.Close()
}

// due measures how late 1,000 sockets die that fall due at 1,000 different
// instants.
func (b *bench) due() error {
	l, err := b.lateness(b.sockdog, 20*time.Second, func(context.Context) {})
	if err != nil {
		return err
	}
	fmt.Printf("| 1,000 falling due at 1,000 instants: lateness of 50, 99 and all of 100 at most | %.1f ms, %.1f ms, %.1f ms; %d early | | |\n",
		ms(l.half), ms(l.most), ms(l.all), l.early)
	return nil
}

// lateness is how late 1,000 sockets died, and what that cost.
type lateness struct {
	half, most, all time.Duration // of 50, 99 and all of 100 at most
	early           int
	cores           float64
}

// lateness lets 1,000 sockets fall due one after the other while beside runs: from the
// instant before their peer closed, to the time in the log.
func (b *bench) lateness(sockdog string, bound time.Duration, beside func(context.Context)) (l lateness, err error) {
	leak, err := b.leaking(0)
	if err != nil {
		return l, err
	}
	defer leak.end()
	s, err := b.start(sockdog, "", fmt.Sprint("state: close-wait, in_state_for: ", bound))
	if err != nil {
		return l, err
	}
	defer s.end()
	ctx, cancel := context.WithCancel(context.Background())
	var others sync.WaitGroup
	defer others.Wait()
	defer cancel()
	others.Go(func() { beside(ctx) })
	began := time.Now()
	before, err := s.cpu()
	if err != nil {
		return l, err
	}
	left := make(map[string]time.Time) // by the address of a socket, when its peer did
	for range 1000 {
		local, at, err := leak.add()
		if err != nil {
			return l, err
		}
		left[local.String()] = at
		time.Sleep(10 * time.Millisecond)
	}
	var late []time.Duration
	for len(late) < len(left) && s.log.Scan() {
		var line struct {
			Time        time.Time
			Result, Src string
		}
		if err := json.Unmarshal(s.log.Bytes(), &line); err != nil || line.Result != "done" {
			continue
		}
		over := line.Time.Sub(left[line.Src]) - bound
		if over < 0 {
			l.early++
		}
		late = append(late, over)
	}
	if len(late) < len(left) {
		return l, fmt.Errorf("only %d of %d were killed", len(late), len(left))
	}
	after, err := s.cpu()
	l.cores = (after - before).Seconds() / time.Since(began).Seconds()
	slices.Sort(late)
	l.half, l.most, l.all = late[len(late)/2], late[len(late)*99/100], late[len(late)-1]
	return l, err
}
