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
	"runtime"
	"syscall"

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
	switch os.Getenv(insideEnv) {
	case "entering":
		os.Setenv(insideEnv, "entered")
		if err := loopbackUp(); err != nil {
			os.Exit(exitUnusable)
		}
		return true, 0, nil
	case "entered":
		return true, 0, nil
	}

	status, err = rerun(private())
	if err != nil && os.Geteuid() == 0 {
		var second error
		if status, second = rerun(&syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}); second == nil {
			return false, status, nil
		}
		if second.Error() != err.Error() {
			err = fmt.Errorf("%w; without a user namespace: %w", err, second)
		}
	}
	return false, status, err
}

// private asks for new user and network namespaces, the caller being root in
// the former.
func private() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
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
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("make a private namespace (see sysctl user.max_user_namespaces, or be root): %w", err)
	}
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case sig := <-signals:
				cmd.Process.Signal(sig) // an error means that it has ended
			case <-done:
				return
			}
		}
	}()

	err = cmd.Wait()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() == exitUnusable:
		return 0, errors.New("the new network namespace may not be used: this system restricts unprivileged user namespaces")
	case errors.As(err, &exit) && exit.ExitCode() < 0:
		return 128 + int(exit.Sys().(syscall.WaitStatus).Signal()), nil
	case errors.As(err, &exit):
		return exit.ExitCode(), nil
	default:
		return 0, err
	}
}

// loopbackUp brings the loopback interface of the calling thread's network
// namespace up: a new namespace has it down.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bring the loopback interface up: %w", err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("bring the loopback interface up: %w", err)
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("bring the loopback interface up: %w", err)
	}
	return nil
}
