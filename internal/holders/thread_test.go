package holders

import (
	"bufio"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/sock"
)

const leaderEnv = "SOCKDOG_TEST_LEADER"

// The first thread of a program that runs init functions is the first of its process.
func init() {
	if os.Getenv(leaderEnv) != "" {
		runtime.LockOSThread()
	}
}

// loseLeader ends the first thread, and another goes on.
func loseLeader() {
	go func() {
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, unix.SIGTERM)
		for {
			s, err := readStat(unix.AT_FDCWD, "/proc/self/stat")
			if err == nil && s[0][0] == 'Z' {
				break
			}
			runtime.Gosched()
		}
		os.Stdout.WriteString("ended\n")
		<-stop
		os.Exit(0)
	}()
	syscall.Syscall(unix.SYS_EXIT, 0, 0, 0) // not RawSyscall: others are to run on
}

// A process whose first thread has ended shows no descriptors in its directory, and holds
// them all the same.
func TestFindThread(t *testing.T) {
	s := listening(t)
	inode := must(s.Inode())(t)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), leaderEnv+"=yes")
	cmd.ExtraFiles = []*os.File{os.NewFile(uintptr(must(unix.Dup(int(s)))(t)), "socket")}
	out := must(cmd.StdoutPipe())(t)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Signal(unix.SIGTERM)
	must(bufio.NewReader(out).ReadString('\n'))(t)
	f := NewFinder("/proc", nil)
	self := must(os.Executable())(t)
	for i, find := range []func(map[uint32]struct{}) (Found, error){f.Find, f.Find, f.FindNew} {
		found := must(find(set([]uint32{inode})))(t)
		var ofChild sock.Holder
		for _, h := range found.Holders[inode] {
			if h.PID == cmd.Process.Pid {
				ofChild = h
			}
		}
		usage := must(ReadUsage("/proc", cmd.Process.Pid))(t)
		if len(found.Holders[inode]) != 2 || ofChild.Start != usage.Start || ofChild.Comm == "" || ofChild.Exe != filepath.Base(self) {
			t.Errorf("call %d: %+v, want the child from %d, too", i, found.Holders[inode], usage.Start)
		}
	}
}
