package events_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/source/events"
)

// What the test binary does when it is run again with actEnv in its environment. Whoever acts
// prints a line when it is ready, and then waits for the end of its input.
const actEnv = "SOCKDOG_EVENTS_TEST"

var acts = map[string]func() error{
	"hold":      hold,
	"attach":    attachForGood,
	"contained": contained,
	"load":      onlyLoad,
	"forbidden": func() error { return errors.Join(forbidBPF(unix.SECCOMP_RET_ERRNO|uint32(unix.EPERM)), onlyLoad()) },
	"deadly":    func() error { return errors.Join(forbidBPF(unix.SECCOMP_RET_KILL_PROCESS), onlyLoad()) },
}

// actor is the test binary as another process.
type actor struct {
	*exec.Cmd
	said string
}

// start runs an act until it is ready, and has it end with the test.
func start(t testing.TB, act string, attr *syscall.SysProcAttr, files ...*os.File) *actor {
	t.Helper()
	a := &actor{Cmd: exec.Command("/proc/self/exe")}
	a.Env = append(os.Environ(), actEnv+"="+act, "SOCKDOG_EVENTS_CGROUP="+string(own))
	a.SysProcAttr, a.ExtraFiles, a.Stderr = attr, files, os.Stderr
	stdin := must(a.StdinPipe())(t)
	stdout := must(a.StdoutPipe())(t)
	check(t, a.Start())
	t.Cleanup(func() {
		stdin.Close()
		a.Wait() // its status has been looked at where it matters
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("%s: %v", act, err)
	}
	a.said = line[:len(line)-1]
	return a
}

func ready(what string) error {
	fmt.Println(what)
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// hold keeps the sockets that it inherited, and those that come over the socket 3.
func hold() error {
	rights := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(3, make([]byte, 1), rights, 0)
	if err != nil {
		return err
	}
	messages, err := unix.ParseSocketControlMessage(rights[:n])
	if err != nil || len(messages) != 1 {
		return fmt.Errorf("%d messages: %w", len(messages), err)
	}
	passed, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return err
	}
	return ready(strconv.Itoa(passed[0]))
}

func attachForGood() error {
	p, err := events.Load(100)
	if err != nil {
		return err
	}
	if err := p.Attach(os.Getenv("SOCKDOG_EVENTS_CGROUP")); err != nil {
		return err
	}
	return ready("attached")
}

// onlyLoad says what came of it.
func onlyLoad() error {
	p, err := events.Load(100)
	if err == nil {
		defer p.Close()
		err = p.WhyNoOwners()
	}
	if refused, ok := errors.AsType[*events.LoadError](err); ok && refused.Log() != "" {
		fmt.Fprintln(os.Stderr, refused.Log())
	}
	return ready(fmt.Sprint(err))
}

// contained says whether there is a root of cgroup v2, where it is mounted as in a container.
func contained() error {
	root, err := events.CgroupRoot()
	if err != nil {
		return err
	}
	if err := errors.Join(
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Unmount(root, unix.MNT_DETACH),
		unix.Mount("cgroup2", root, "cgroup2", 0, ""),
	); err != nil {
		return err
	}
	_, err = events.CgroupRoot()
	return ready(fmt.Sprint(err))
}

// forbidBPF has the kernel answer bpf(2) of this process in that way, as a container's filter
// does.
func forbidBPF(answer uint32) error {
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // seccomp_data.nr
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_BPF, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: answer},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&filter)))
	runtime.KeepAlive(program)
	if errno != 0 {
		return errno
	}
	return nil
}
