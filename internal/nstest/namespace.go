// Package nstest runs a program in user and network namespaces of its own and
// fills them with stuck TCP sockets: for tests and for the demo. It needs no
// root, and touches nothing outside those namespaces.
package nstest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// insideEnv tells the second run of the program that it is that, and all that it
// starts that they are in the namespaces already.
const insideEnv = "SOCKDOG_NSTEST_INSIDE"

// exitUnusable is the second run's word to the first that the namespaces came
// without the right to use them, as under AppArmor's restriction of
// unprivileged user namespaces. A test binary exits with 0, 1 or 2.
const exitUnusable = 97

// Enter runs the program again, with the same arguments, in a private user and
// network namespace (as root where user namespaces are forbidden: in a network
// namespace alone), waits for it and returns its exit status. In that second
// run it brings the loopback interface up and returns inside at once. An error
// means that no private namespace can be had, and nothing was run.
func Enter() (inside bool, status int, err error) {
	if isInside() {
		return true, 0, nil
	}
	// The caller is root in the new user namespace.
	status, err = rerun(&syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	})
	if err != nil && os.Geteuid() == 0 {
		status, err = rerun(&syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET})
	}
	return false, status, err
}

// isInside reports whether this is the second run, or was started by it.
func isInside() bool {
	switch os.Getenv(insideEnv) {
	case "entering":
		os.Setenv(insideEnv, "entered")
		if err := LoopbackUp(); err != nil {
			os.Exit(exitUnusable)
		}
		return true
	case "entered":
		return true
	}
	return false
}

// rerun runs the program once more, under attr.
func rerun(attr *syscall.SysProcAttr) (status int, err error) {
	// Pdeathsig is sent when the thread that forked ends, not the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	attr.Pdeathsig = syscall.SIGKILL

	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), insideEnv+"=entering")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = attr

	// What stops the first run stops the second.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	defer close(signals)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("make a private namespace (see sysctl user.max_user_namespaces, or be root): %w", err)
	}
	go func() {
		for sig := range signals {
			cmd.Process.Signal(sig) // an error means that it has ended
		}
	}()

	err = cmd.Wait()
	if _, ended := errors.AsType[*exec.ExitError](err); !ended {
		return 0, err
	}
	switch wait := cmd.ProcessState.Sys().(syscall.WaitStatus); {
	case wait.Signaled():
		return 128 + int(wait.Signal()), nil
	case wait.ExitStatus() == exitUnusable:
		return 0, errors.New("the new network namespace may not be used: this system restricts unprivileged user namespaces")
	default:
		return wait.ExitStatus(), nil
	}
}

// LoopbackUp brings the loopback interface of the calling thread's network
// namespace up: a new namespace has it down.
func LoopbackUp() error { return netlink.LinkSetUp(Loopback) }

// Sysctl sets a sysctl of the calling thread's network namespace, such as
// net.ipv4.tcp_fin_timeout.
func Sysctl(name, value string) error {
	return os.WriteFile(filepath.Join("/proc/sys", strings.ReplaceAll(name, ".", "/")), []byte(value), 0)
}

// unavailable says why the tests of this process have no namespace of their own.
var unavailable error

// Main is the body of a TestMain: it runs the tests in private namespaces. Where
// there are none to be had it runs them all the same, and those that call Need
// are skipped.
func Main(m interface{ Run() int }) {
	inside, status, err := Enter()
	if err == nil && !inside {
		os.Exit(status)
	}
	unavailable = err
	os.Exit(m.Run())
}

// MainAsRoot is Main for tests of what root has in the initial user namespace alone, such
// as eBPF: they get a private network namespace, and nothing else.
func MainAsRoot(m interface{ Run() int }) {
	if isInside() {
		os.Exit(m.Run())
	}
	status, err := rerun(&syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	os.Exit(status)
}

// TB is the part of testing.TB that this package uses; it does not import
// testing, so that the demo can use the rest of it.
type TB interface {
	Helper()
	Fatal(args ...any)
	Skip(args ...any)
}

// Need skips a test that cannot do without private namespaces where there are
// none.
func Need(t TB) {
	t.Helper()
	SkipWithout(t, "a network namespace of its own", unavailable)
}

// SkipWithout skips a test that cannot do without something, if that is missing. With
// CI=true it fails instead: there, a test that did not run is a defect.
func SkipWithout(t TB, what string, missing error) {
	t.Helper()
	if missing == nil {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("needs "+what+": ", missing)
	}
	t.Skip("needs "+what+": ", missing)
}

// Isolate gives the calling test a fresh network namespace, so that it can run
// in parallel with others. The test's goroutine is locked to a thread that ends
// with it. Sockets that other goroutines open belong to the old namespace, and
// only /proc/thread-self shows the new one.
func Isolate(t TB) {
	t.Helper()
	Need(t)
	runtime.LockOSThread() // never unlocked: the thread must not be reused
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal("unshare the network namespace: ", err)
	}
	if err := LoopbackUp(); err != nil {
		t.Fatal("bring the loopback interface up: ", err)
	}
}

// WithoutCapabilities runs f on a thread that may do no more than its user.
func WithoutCapabilities(t TB, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		defer close(done)      // also where f ends the goroutine
		runtime.LockOSThread() // never unlocked: the thread ends with its capabilities lost
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			done <- err
			return
		}
		f()
	}()
	if err := <-done; err != nil {
		t.Fatal("drop capabilities: ", err)
	}
}
