// Package demo shows sockdog at work: a program leaks connections to its
// database in a private network namespace, and `sockdog run` heals it. What it
// claims in the end it has read in the kernel's socket table, not in a log.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
)

const (
	// bound is the time in CLOSE_WAIT that the rule allows.
	bound = 3 * time.Second
	// pause lies between two rounds in which the database closes connections.
	pause = time.Second
	// watchEvery is how often the kernel is asked what became of the leak.
	watchEvery = 5 * time.Millisecond
	// grace is how long after its due instant a socket may still be there before
	// the demo gives up: on a machine that is busy with other things.
	grace = 5 * time.Second
	// patience bounds the whole demo, also where sockdog takes long to start.
	patience = time.Minute
)

const toAllow = `the demo needs a network namespace of its own. One of these allows it:
  - run it as root
  - as an ordinary user: sysctl -w user.max_user_namespaces=10000
    (on Ubuntu also kernel.apparmor_restrict_unprivileged_userns=0, on Debian kernel.unprivileged_userns_clone=1)
  - in a container: docker run --privileged`

// Run shows the whole story on out, and reports whether the leak was healed.
// The program of the process must be sockdog: it is run again inside the
// namespace, and what goes wrong there has been said when Run returns.
func Run(ctx context.Context, out io.Writer) (healed bool, err error) {
	inside, status, err := nstest.Enter()
	if err != nil {
		return false, fmt.Errorf("%w\n%s", err, toAllow)
	}
	if !inside {
		return status == 0, nil
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errors.New("the demo took too long, and gave up"))
	defer cancel()

	// A child's Pdeathsig goes by the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	s := &scene{story: story{out: out, began: time.Now()}}
	if err := s.play(ctx); err != nil {
		return false, err
	}
	return s.ending(s.database.conns), nil
}

// scene is all that takes part.
type scene struct {
	story
	database *database
	dog      *dog
	said     <-chan line      // the log; nil: it has ended
	round    <-chan time.Time // when the database closes connections; nil: not now
	rounds   int              // in which it did
}

// play leaves nothing behind, wherever it ends.
func (s *scene) play(ctx context.Context) (err error) {
	s.opening()
	if s.database, err = openDatabase(); err != nil {
		return err
	}
	defer s.database.close()
	shop, err := startShop()
	if err != nil {
		return fmt.Errorf("start %s: %w", shopName, err)
	}
	defer func() {
		shop.Process.Kill()
		shop.Wait() // it was killed: that is no news
	}()
	if err := s.database.welcome(); err != nil {
		return fmt.Errorf("%s did not open its connections: %w", shopName, err)
	}
	s.tell("%s[%d] has %d connections to its database: %d idle, %d in use, and %d on which\n"+
		"        the database has said all that it will say, and the program still sends",
		shopName, shop.Process.Pid, len(roles), count(forgot), count(inUse), count(upload))
	if s.dog, err = startDog(); err != nil {
		return fmt.Errorf("start sockdog: %w", err)
	}
	defer s.dog.close()
	s.said = s.dog.said
	if err := s.watch(ctx, s.settled); err != nil {
		return err
	}
	s.said = nil
	if err := s.dog.stop(); err != nil {
		return fmt.Errorf("sockdog was told to stop: %w", err)
	}
	s.tell("sockdog is told to stop, and has")

	// The program is to use its healthy connections once more.
	for _, c := range s.database.conns {
		c.before = c.bytes
	}
	giveUp := s.database.now().Add(grace) // the ending says what is wrong
	return s.watch(ctx, func() bool {
		wrong := func(c *conn) bool { return c.role != forgot && c.problem() != "" }
		return s.database.now() >= giveUp || !slices.ContainsFunc(s.database.conns, wrong)
	})
}

// watch lets the database close its connections, and follows what comes of it until
// done.
func (s *scene) watch(ctx context.Context, done func() bool) error {
	for tick := time.Tick(watchEvery); ; {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case line, ok := <-s.said:
			if !ok {
				return fmt.Errorf("sockdog ended in the middle of it: %w", s.dog.wait())
			}
			s.heard(line)
		case <-s.round:
			s.round = nil
			if s.rounds++; s.rounds*perRound < count(forgot) {
				s.round = time.After(pause)
			}
			if err := s.database.leave(s.rounds); err != nil {
				return err
			}
			s.tell("the database closes %d idle ones, and %s forgets to", perRound, shopName)
		case <-tick:
			if err := s.database.follow(); err != nil {
				return err
			}
			if done() {
				return nil
			}
		}
	}
}

// heard takes in a line of sockdog's log.
func (s *scene) heard(l line) {
	switch {
	case l.Message == watching:
		s.tell("sockdog[%d] watches", s.dog.cmd.Process.Pid)
		s.round = time.After(pause / 4)
	case l.Result != "":
		for _, c := range s.database.conns {
			c.killed = c.killed || c.at == l.Src && l.Action == "kill" && l.Result == "done"
		}
		s.tell("sockdog: %s %s: %s, held by %s[%d], %s", l.Action, l.Result, l.Src, l.Comm, l.PID, l.Reason)
	case l.Level != "INFO" && l.Message != elsewhere:
		said := slices.DeleteFunc([]string{l.Message, l.Reason, l.Error}, func(s string) bool { return s == "" })
		s.tell("sockdog: %s", strings.Join(said, ": "))
	}
}

// settled reports whether nothing more is to come: every forgotten socket is
// gone and sockdog has said so, or it is past all hope.
func (s *scene) settled() bool {
	return !slices.ContainsFunc(s.database.conns, func(c *conn) bool {
		open := c.gone == 0 || !c.killed
		return c.role == forgot && (c.closed == 0 || open && s.database.now() < c.due().Add(grace))
	})
}

// again is a command that runs this program again, whatever has become of its
// file: /proc/self/exe needs no path to it.
func again(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = os.Args[0]
	// A group of its own: a terminal's interrupt is for the demo to deal with.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL, Setpgid: true}
	return cmd
}
