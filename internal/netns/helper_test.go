package netns

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
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
	case "files":
		fmt.Print(withoutFiles())
		os.Exit(0)
	case "host":
		fmt.Print(host())
		os.Exit(0)
	case "pod":
		fmt.Print(pod())
		os.Exit(0)
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
		if errors.Is(err, errNotPermitted) && Inode() == here {
			fmt.Println("refused, and stayed")
		} else {
			fmt.Println(err, Inode(), here)
		}
		os.Exit(0)
	}
	fmt.Println(Inode())
	hold()
}

// host is process 1, with a namespace mounted that its pod has not.
func host() string {
	runtime.LockOSThread()
	made, err := inNew()
	if err != nil {
		return err.Error()
	}
	err = errors.Join(
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("none", "/proc", "proc", 0, ""))
	if err != nil {
		return noProc
	}
	err = errors.Join(
		unix.Mount("none", "/run", "tmpfs", 0, ""),
		os.Mkdir("/run/netns", 0o755), os.WriteFile("/run/netns/blue", nil, 0o600),
		made.control(func(fd int) {
			err = unix.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), "/run/netns/blue", "", unix.MS_BIND, "")
		}), err, made.Close())
	if err != nil {
		return err.Error()
	}
	out, err := helperCommand("pod", func(a *helperAttr) { a.Cloneflags = unix.CLONE_NEWNS }).CombinedOutput()
	if err != nil {
		return fmt.Sprint(string(out), err)
	}
	return string(out)
}

// noProc is what it says where it may not mount /proc, as in a container.
const noProc = "no proc"

// pod is a process beside it, without that mount.
func pod() string {
	err := errors.Join(unix.Unmount("/run", unix.MNT_DETACH))
	own, selfErr := Self()
	f, finderErr := NewFinder("/proc", own)
	if err := errors.Join(err, selfErr, finderErr); err != nil {
		return err.Error()
	}
	found, err := f.Find()
	if err := errors.Join(err, found.LeftOut()); err != nil {
		return err.Error()
	}
	text := fmt.Sprintf("%d appeared", len(found.Appeared))
	for _, n := range found.Appeared {
		text += ", called " + strings.Join(f.Names(n.Inode), " and ")
	}
	return text + "\n"
}

// withoutFiles finds while there is no descriptor left for what it finds, and again.
func withoutFiles() string {
	own, err := Self()
	if err != nil {
		return err.Error()
	}
	f, err := NewFinder("/proc", own)
	if err != nil {
		return err.Error()
	}
	if _, err := f.Find(); err != nil {
		return err.Error()
	}
	cmd := helperCommand("sleep", newNetns)
	stdin, pipeErr := cmd.StdinPipe()
	stdout, outErr := cmd.StdoutPipe()
	if err := errors.Join(pipeErr, outErr, cmd.Start()); err != nil {
		return err.Error()
	}
	defer func() { stdin.Close(); _ = cmd.Wait() }()
	var inode uint32
	if _, err := fmt.Fscan(stdout, &inode); err != nil {
		return err.Error()
	}
	next, err := unix.Dup(0)
	if err != nil {
		return err.Error()
	}
	unix.Close(next)
	var limit unix.Rlimit
	_ = unix.Getrlimit(unix.RLIMIT_NOFILE, &limit)
	few := limit
	few.Cur = uint64(next) + 1 // one for the list of processes
	_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &few)
	first, firstErr := f.Find()
	_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
	second, err := f.Find()
	if err := errors.Join(firstErr, err, second.LeftOut()); err != nil && second.Refused == 0 {
		return err.Error()
	}
	left := 0
	if errors.Is(first.LeftOut(), unix.EMFILE) {
		left++
	}
	return fmt.Sprintf("%d left out, then %d appeared\n", left, len(second.Appeared))
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
	made[inode] = true
	return inode, end
}

func newNetns(a *helperAttr) { a.Cloneflags = unix.CLONE_NEWNET }
