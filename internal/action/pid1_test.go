package action

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	ossignal "os/signal"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/holders"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// pidEnv has the test binary be the program of a container, which is its process 1, or what
// signals that from beside it.
const pidEnv = "SOCKDOG_TEST_PID_NAMESPACE"

// programOfContainer is what a container was started for: it has itself signalled, and ends once it is.
func programOfContainer() {
	term := make(chan os.Signal, 1)
	ossignal.Notify(term, unix.SIGTERM)
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	beside := exec.Command("/proc/self/exe")
	beside.Env, beside.Stdout, beside.Stderr = append(os.Environ(), pidEnv+"=beside"), os.Stdout, os.Stderr
	if err := beside.Run(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("process", os.Getpid(), "got", <-term)
}

// signalOne tries to signal process 1, in each way, and says what comes of it.
func signalOne() {
	one, err := readProcess("/proc", 1)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	x := Runner{
		Kinds: Kinds(), Now: func() sock.Instant { return 1 }, ProcRoot: "/proc", Contained: func() bool { return holders.Contained("/proc") },
		Recheck: func(*engine.GroupAction) (match.Reason, error) { return "", nil },
	}
	for _, o := range []rules.SignalOptions{{Signal: "TERM"}, {Signal: "KILL", AllowPID1: true}, {Signal: "TERM", AllowPID1: true}} {
		done := x.Run(context.Background(), &engine.GroupAction{Process: sock.Holder{PID: 1, Start: one.start}, Action: &rules.Action{Kind: rules.Signal, Signal: &o}})
		fmt.Println(done.Found, done.Err)
	}
}

// The program of a container is its process 1. It is signalled where the rule says so, and it has
// a handler.
func TestSignalProcessOneOfAContainer(t *testing.T) {
	nstest.Need(t)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), pidEnv+"=program")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	said := strings.Split(string(out), "\n")
	for i, want := range []string{"signal it with allow_pid_1: true", "has no handler for this signal", "sent SIGTERM to process 1", "process 1 got terminated"} {
		if !strings.Contains(said[min(i, len(said)-1)], want) {
			t.Errorf("it says %q, want %q in line %d", said, want, i+1)
		}
	}
}
