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
)

// started is a running `sockdog run`.
type started struct {
	cmd *exec.Cmd
	log *bufio.Scanner
}

// start runs sockdog with one rule and waits until it watches.
func (b *bench) start(bound string) (*started, error) { return b.startOf(b.sockdog, bound) }

// startOf is start with another build of sockdog.
func (b *bench) startOf(sockdog, bound string) (*started, error) {
	return b.startWith(sockdog, "rules:\n  - name: bench\n    match: {state: close-wait, in_state_for: "+bound+"}\n    then: [{kill: {limit: 10000/1m}}]\n")
}

// startWith is start with other rules.
func (b *bench) startWith(sockdog, rules string) (*started, error) {
	file := filepath.Join(filepath.Dir(b.sockdog), "rules.yaml")
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
	for s.log.Scan() {
	}
	s.cmd.Wait()
}

// idle measures what watching costs when there is nothing to do.
func (b *bench) idle() error {
	talker, err := gather(idleTalker, 0)
	if err != nil {
		return err
	}
	defer talker.end()
	s, err := b.start("5m")
	if err != nil {
		return err
	}
	defer s.end()
	const span = time.Minute
	for _, traffic := range []bool{false, true} {
		name := "without traffic"
		if traffic {
			name = "with traffic"
			if err := talker.tell(fmt.Sprint("talk ", int(span.Seconds())+5)); err != nil {
				return err
			}
		}
		before, err := cpu(s.cmd.Process.Pid)
		if err != nil {
			return err
		}
		time.Sleep(span)
		after, err := cpu(s.cmd.Process.Pid)
		if err != nil {
			return err
		}
		rss, err := resident(s.cmd.Process.Pid)
		if err != nil {
			return err
		}
		fmt.Printf("| `sockdog run`, a 5 m rule, nothing to do, over a minute %s | %.3f %% of a core, %.1f MB resident | | |\n",
			name, 100*(after-before).Seconds()/span.Seconds(), float64(rss)/1e6)
	}
	return nil
}

// cpu is the CPU time of a process by schedstat, in nanoseconds: utime counts in
// ticks, and most scans fall between two.
func cpu(pid int) (time.Duration, error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err != nil {
			continue // the thread has ended
		}
		ns, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(ns)
	}
	return sum, nil
}

// resident is VmRSS in bytes.
func resident(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	return kb * 1024, err
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
func (b *bench) lateness(sockdog string, bound time.Duration, beside func(context.Context)) (lateness, error) {
	leak, err := gather(dueLeak, 0)
	if err != nil {
		return lateness{}, err
	}
	defer leak.end()
	s, err := b.startOf(sockdog, bound.String())
	if err != nil {
		return lateness{}, err
	}
	defer s.end()
	ctx, cancel := context.WithCancel(context.Background())
	var others sync.WaitGroup
	defer others.Wait()
	defer cancel()
	others.Go(func() { beside(ctx) })
	began := time.Now()
	before, err := cpu(s.cmd.Process.Pid)
	if err != nil {
		return lateness{}, err
	}
	if err := leak.tell("drip 10000"); err != nil {
		return lateness{}, err
	}
	left, err := leak.when()
	if err != nil {
		return lateness{}, err
	}
	var l lateness
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
		return lateness{}, fmt.Errorf("only %d of %d were killed", len(late), len(left))
	}
	after, err := cpu(s.cmd.Process.Pid)
	l.cores = (after - before).Seconds() / time.Since(began).Seconds()
	slices.Sort(late)
	l.half, l.most, l.all = late[len(late)/2], late[len(late)*99/100], late[len(late)-1]
	return l, err
}
