package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// line is one line of the log.
type line struct {
	Level, Msg, Rule, Action, Result, Reason, Netns, Comm, Error, Pod, Container string
	Cookie                                                                       uint64
	PID                                                                          int
	Holders                                                                      []struct{ PID int }
	Age                                                                          float64 `json:"in_state_for"`
}

// watchdog is sockdog run.
type watchdog struct {
	*testing.T
	cmd   *exec.Cmd
	rules string // the file

	mu    sync.Mutex
	lines []line
	text  strings.Builder
	over  chan struct{} // closed when the log has ended
}

// watch runs sockdog by rules, and returns once it watches.
func watch(t *testing.T, rules string, how ...func(*exec.Cmd)) *watchdog {
	t.Helper()
	w := begin(t, rules, how...)
	w.says("watching")
	return w
}

// begin begins to run sockdog by rules.
func begin(t *testing.T, rules string, how ...func(*exec.Cmd)) *watchdog {
	t.Helper()
	w := &watchdog{T: t, over: make(chan struct{}), rules: filepath.Join(t.TempDir(), "rules.yaml")}
	check(t, os.WriteFile(w.rules, []byte(rules), 0o600))
	w.cmd = exec.Command(sockdog, "run", "--rules", w.rules, "--listen", "off", "--control-socket", "off", "--log-format", "json", "--log-level", "debug")
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	for _, h := range how {
		h(w.cmd)
	}
	log := must(w.cmd.StderrPipe())(t)
	check(t, w.cmd.Start())
	go w.read(log)
	t.Cleanup(func() {
		w.stop()
		if t.Failed() {
			t.Logf("the log of sockdog:\n%s", w.String())
		}
	})
	return w
}

// by has sockdog run with flags more.
func by(flags ...string) func(*exec.Cmd) {
	return func(c *exec.Cmd) { c.Args = append(c.Args, flags...) }
}

func (w *watchdog) read(log io.Reader) {
	defer close(w.over)
	for lines := bufio.NewScanner(log); lines.Scan(); {
		var l line
		err := json.Unmarshal(lines.Bytes(), &l)
		w.mu.Lock()
		fmt.Fprintln(&w.text, lines.Text())
		if err == nil {
			w.lines = append(w.lines, l)
		}
		w.mu.Unlock()
	}
}

func (w *watchdog) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

func (w *watchdog) find(meant func(line) bool) (found []line) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.lines {
		if meant(l) {
			found = append(found, l)
		}
	}
	return found
}

// count is how many lines begin their message with text.
func (w *watchdog) count(text string) int {
	return len(w.find(func(l line) bool { return strings.HasPrefix(l.Msg, text) }))
}

// await waits for a line of the log.
func (w *watchdog) await(what string, meant func(line) bool) (found line) {
	w.Helper()
	until(w.T, what, func() bool {
		select {
		case <-w.over:
			w.Fatalf("sockdog has ended; no %s", what)
		default:
		}
		all := w.find(meant)
		if len(all) > 0 {
			found = all[0]
		}
		return len(all) > 0
	})
	return found
}

// says waits for a message.
func (w *watchdog) says(text string) line {
	w.Helper()
	return w.await(fmt.Sprintf("%q in the log", text), func(l line) bool { return strings.HasPrefix(l.Msg, text) })
}

// stop ends sockdog as a service manager does, and checks how it ended.
func (w *watchdog) stop() {
	if w.cmd.ProcessState != nil {
		return
	}
	w.cmd.Process.Signal(unix.SIGTERM)
	<-w.over
	if err := w.cmd.Wait(); err != nil {
		w.Errorf("sockdog: %v", err)
	}
}

// kill ends it as the kernel does where memory is short.
func (w *watchdog) kill() {
	w.cmd.Process.Kill()
	<-w.over
	w.cmd.Wait()
}
