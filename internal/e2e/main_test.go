// Package e2e tests the command on a whole host: sockdog run over all network namespaces,
// by events where the kernel lets it, and on its bad days.
//
// The host is a PID and mount namespace of the tests' own, in which neither the processes
// nor the named network namespaces of the real one are to be seen: whatever a rule of a
// test says, nobody else's sockets are found.
package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/source/events"
)

const (
	insideEnv = "SOCKDOG_E2E_INSIDE"
	actEnv    = "SOCKDOG_E2E_ACT" // what the tests start of themselves
)

// sockdog is the command, and lacking says why there is no eBPF; unusable, why there is no
// host of the tests' own.
var (
	sockdog           string
	lacking, unusable error
)

func TestMain(m *testing.M) {
	events.BecomeLoader()
	if act := acts[os.Getenv(actEnv)]; act != nil {
		if err := act(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getenv(insideEnv) == "" {
		enter()
	} else if err := settle(); err != nil {
		panic(err)
	}
	os.Exit(run(m))
}

// enter runs the tests in a host of their own. It returns where there is none to be had.
func enter() {
	runtime.LockOSThread() // whose end is what Pdeathsig waits for
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideEnv+"=yes")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT)
	if err := cmd.Start(); err != nil {
		unusable = fmt.Errorf("it takes root: %w", err)
		return
	}
	go func() {
		for s := range signals {
			cmd.Process.Signal(s)
		}
	}()
	err = cmd.Wait()
	if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
		panic(err)
	}
	os.Exit(max(cmd.ProcessState.ExitCode(), -cmd.ProcessState.ExitCode()))
}

// settle has /proc show the processes of this host alone, and unmounts what others have
// mounted of network namespaces.
func settle() error {
	err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	if err == nil {
		err = unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	}
	if err != nil {
		return err
	}
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); slices.Contains(fields, "nsfs") {
			unix.Unmount(fields[4], unix.MNT_DETACH) // what is mounted over it is unmounted with it
		}
	}
	return nil
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "sockdog-e2e-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	if programs, err := events.Load(1); err != nil {
		lacking = err
	} else {
		programs.Close()
	}
	if unusable == nil {
		sockdog = filepath.Join(dir, "sockdog")
		cmd := exec.Command("go", "build", "-o", sockdog, "github.com/sockdog/sockdog/cmd/sockdog")
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build sockdog: %v\n%s", err, out)
			return 1
		}
	}
	return m.Run()
}

// need skips a test where there is no host of its own; needEvents, where there is no eBPF.
func need(t *testing.T) { t.Helper(); nstest.SkipWithout(t, "a host of its own", unusable) }
func needEvents(t *testing.T) {
	t.Helper()
	need(t)
	nstest.SkipWithout(t, "eBPF", lacking)
}

func must[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
