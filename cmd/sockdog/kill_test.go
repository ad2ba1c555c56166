package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
)

// sockdogCommand runs this test binary as the command, by the name that
// testscript knows it by.
func sockdogCommand(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	nstest.Need(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Args = append([]string{"sockdog"}, args...)
	return cmd
}

// leakOf makes n forgotten sockets and returns them, and the filter that means them.
func leakOf(t *testing.T, n int) (*nstest.Leak, string) {
	t.Helper()
	leak, err := nstest.CloseWait(nstest.V4, nstest.ClientSide, n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { leak.Close() })
	peer, err := leak.Stuck[0].Remote()
	if err != nil {
		t.Fatal(err)
	}
	return leak, fmt.Sprint("state close-wait dport = ", peer.Port())
}

// alive counts the sockets that are still in CLOSE_WAIT.
func alive(t *testing.T, leak *nstest.Leak) int {
	t.Helper()
	n := 0
	for _, s := range leak.Stuck {
		info, err := unix.GetsockoptTCPInfo(int(s), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			t.Fatal(err)
		}
		if info.State == unix.BPF_TCP_CLOSE_WAIT {
			n++
		}
	}
	return n
}

// Whoever reads the outcomes may go away: none is left half done, and the sum is
// still told.
func TestKillBrokenPipe(t *testing.T) {
	cmd := sockdogCommand(t, "kill", "--yes")
	leak, filter := leakOf(t, 300)
	cmd.Args = append(cmd.Args, filter)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	defer w.Close()
	var stderr strings.Builder
	cmd.Stdout, cmd.Stderr = w, &stderr
	if err := cmd.Run(); cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("%v, want exit status 1", err)
	}
	if n := alive(t, leak); n != 0 {
		t.Errorf("%d sockets live on", n)
	}
	if !regexp.MustCompile(`(?s)broken pipe.*destroyed 300`).MatchString(stderr.String()) {
		t.Errorf("standard error is %q", stderr.String())
	}
}

// What writes to somebody who does not read ends by a second signal.
func TestSignalledTwice(t *testing.T) {
	nstest.Need(t)
	_, filter := leakOf(t, 300)
	for _, args := range [][]string{{"list", "--watch", filter}, {"kill", "--yes", filter}} {
		t.Run(args[0], func(t *testing.T) {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			defer w.Close()
			room, err := unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, 4096)
			if err != nil {
				t.Fatal(err)
			}
			cmd := sockdogCommand(t, args...)
			cmd.Stdout = w
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			late := time.AfterFunc(patience, func() { cmd.Process.Kill() })
			for full := 0; full < room; time.Sleep(time.Millisecond) {
				if full, err = unix.IoctlGetInt(int(r.Fd()), unix.TIOCINQ); err != nil {
					t.Fatal(err)
				}
			}
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				cmd.Wait()
			}()
			for running := true; running; {
				cmd.Process.Signal(syscall.SIGTERM)
				select {
				case <-ended:
					running = false
				case <-time.After(50 * time.Millisecond):
				}
			}
			late.Stop()
			if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGTERM {
				t.Errorf("it ended with %v, want SIGTERM", cmd.ProcessState)
			}
		})
	}
}

// terminal is a pseudo-terminal: the end that a person sits at, and the end of
// the program.
func terminal(t *testing.T) (person, program *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { person.Close() })
	if err := unix.IoctlSetPointerInt(int(person.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(person.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprint("/dev/pts/", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return person, program
}

// question runs kill on a terminal until it asks. Then person may answer, and
// rest waits for the end.
func question(t *testing.T, args ...string) (cmd *exec.Cmd, person *os.File, rest func() (stdout, stderr string)) {
	t.Helper()
	cmd = sockdogCommand(t, append([]string{"kill"}, args...)...)
	person, program := terminal(t)
	var out strings.Builder
	cmd.Stdin, cmd.Stdout = program, &out
	pipe, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	r := bufio.NewReader(pipe)
	asked, err := r.ReadString('?')
	if err != nil {
		t.Fatalf("no question: %v\n%s", err, asked)
	}
	return cmd, person, func() (string, string) {
		defer late.Stop()
		var text strings.Builder
		if _, err := r.WriteTo(&text); err != nil {
			t.Error(err)
		}
		cmd.Wait()
		return out.String(), text.String()
	}
}

// Between the question and the yes a socket may change.
func TestKillQuestion(t *testing.T) {
	nstest.Need(t)
	leak, filter := leakOf(t, 3)
	cmd, person, rest := question(t, filter)
	// The program closes one after all.
	if err := leak.Stuck[0].Close(); err != nil {
		t.Fatal(err)
	}
	leak.Stuck = leak.Stuck[1:]
	if _, err := person.WriteString("yes\n"); err != nil {
		t.Fatal(err)
	}
	stdout, stderr := rest()
	if got := cmd.ProcessState.ExitCode(); got != 0 || !regexp.MustCompile(`\ndestroyed 2, (gone|changed) 1\n$`).MatchString(stdout) {
		t.Errorf("exit status %d, and %q beside %q", got, stdout, stderr)
	}
	if n := alive(t, leak); n != 0 {
		t.Errorf("%d sockets live on", n)
	}
}

// Between the question and the yes a socket may come to another program, through which it is
// killed then.
func TestKillQuestionPassedOn(t *testing.T) {
	nstest.Need(t)
	leak, filter := leakOf(t, 2)
	cmd, person, rest := question(t, "--via", "holder", filter)
	passed := os.NewFile(uintptr(leak.Stuck[0]), "socket")
	leak.Stuck = leak.Stuck[1:]
	cat := exec.CommandContext(t.Context(), "cat")
	cat.ExtraFiles = []*os.File{passed}
	if _, err := cat.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(cat.Start(), passed.Close()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cat.Process.Kill()
		cat.Wait()
	}()
	if _, err := person.WriteString("yes\n"); err != nil {
		t.Fatal(err)
	}
	stdout, stderr := rest()
	if got := cmd.ProcessState.ExitCode(); got != 0 || !strings.HasSuffix(stdout, "\ndestroyed 2\n") {
		t.Errorf("exit status %d, and %q beside %q", got, stdout, stderr)
	}
}

// A signal is no yes.
func TestKillInterrupted(t *testing.T) {
	nstest.Need(t)
	leak, filter := leakOf(t, 3)
	cmd, _, rest := question(t, filter)
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	stdout, stderr := rest()
	if got := cmd.ProcessState.ExitCode(); got != 130 || stdout != "" || !strings.Contains(stderr, "nothing was destroyed") {
		t.Errorf("exit status %d, and %q beside %q", got, stdout, stderr)
	}
	if n := alive(t, leak); n != 3 {
		t.Errorf("%d sockets live on, want 3", n)
	}
}
