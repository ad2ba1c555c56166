package netns

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// helperEnv has the test binary be something else than tests: what it names.
const helperEnv = "SOCKDOG_NETNS_HELPER"

type helperAttr = syscall.SysProcAttr

func init() {
	if os.Getenv(helperEnv) == "leader" {
		runtime.LockOSThread() // to the first thread
	}
}

// helper is the main function of such a process.
func helper() {
	switch os.Getenv(helperEnv) {
	case "sleep":
	case "leader": // the first thread ends, and another goes on
		go func() {
			leader := fmt.Sprintf("/proc/self/task/%d/ns/net", os.Getpid())
			for _, err := os.Readlink(leader); err == nil; _, err = os.Readlink(leader) {
				time.Sleep(time.Millisecond)
			}
			fmt.Println(Inode())
			hold()
		}()
		time.Sleep(10 * time.Millisecond) // until the goroutine has a thread
		syscall.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
	case "strand":
		runtime.LockOSThread()
		here := Inode()
		self, err := Self()
		if err == nil {
			var made *Namespace
			if made, err = inNew(); err == nil {
				err = made.Do(func() error { return errors.New("entered") })
			}
			self.Close()
		}
		if errors.Is(err, errNoSysAdmin) && Inode() == here {
			fmt.Println("refused, and stayed")
		} else {
			fmt.Println(err, Inode(), here)
		}
		os.Exit(0)
	}
	fmt.Println(Inode())
	hold()
}

// hold waits until the test closes its end of the pipe.
func hold() {
	_, _ = os.Stdin.Read(make([]byte, 1))
	os.Exit(0)
}

// inNew makes a namespace.
func inNew() (*Namespace, error) {
	type made struct {
		n   *Namespace
		err error
	}
	done := make(chan made)
	go func() {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err != nil {
			done <- made{nil, err}
			return
		}
		n, err := Self()
		done <- made{n, err}
	}()
	m := <-done
	return m.n, m.err
}

func helperCommand(name string, change func(*helperAttr)) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), helperEnv+"="+name)
	cmd.SysProcAttr = &helperAttr{
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}},
	}
	change(cmd.SysProcAttr)
	if cmd.SysProcAttr.Cloneflags&unix.CLONE_NEWUSER == 0 {
		cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings = nil, nil
	}
	return cmd
}

// runHelper runs one to its end and returns what it says.
func runHelper(t testing.TB, name string, change func(*helperAttr)) string {
	t.Helper()
	var out bytes.Buffer
	cmd := helperCommand(name, change)
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	check(t, cmd.Run())
	return out.String()
}

// process starts one that stays in a network namespace, and returns its inode and what
// ends it.
func process(t testing.TB, name string, change func(*helperAttr)) (inode uint32, end func()) {
	t.Helper()
	cmd := helperCommand(name, change)
	stdin := must(cmd.StdinPipe())(t)
	stdout := must(cmd.StdoutPipe())(t)
	check(t, cmd.Start())
	end = func() {
		stdin.Close()
		_ = cmd.Wait() // again: it has ended
	}
	t.Cleanup(end)
	if _, err := fmt.Fscan(stdout, &inode); err != nil {
		t.Fatal("the process did not say where it is: ", err)
	}
	return inode, end
}

func newNetns(a *helperAttr) { a.Cloneflags = unix.CLONE_NEWNET }

// eventually waits until wrong says nothing.
func eventually(t testing.TB, wrong func() string) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		what := wrong()
		if what == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
		time.Sleep(time.Millisecond)
	}
}
