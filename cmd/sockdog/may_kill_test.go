package main

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/sockdog/sockdog/internal/host"
	"github.com/sockdog/sockdog/internal/nstest"
)

func TestMayKill(t *testing.T) {
	nstest.Need(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	lives := []string{"sh", "-c", "echo there; exec sleep 600"}
	for _, test := range []struct {
		name    string
		program []string
		uid     uint32
		may     bool
	}{
		{"with the capability", lives, 0, true},
		{"with the capability, for the socket of another user", lives, 1, false},
		{"without", append([]string{"bounded"}, lives...), 0, false},
		{"with that of a user namespace of its own", append([]string{"nested"}, lives...), 0, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			cmd := exec.Command(test.program[0], test.program[1:]...)
			if name := test.program[0]; name != "sh" { // this program has its name
				cmd = &exec.Cmd{Path: self, Args: test.program}
			}
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { cmd.Process.Kill(); cmd.Wait() }()
			if _, err := out.Read(make([]byte, 16)); err != nil {
				t.Fatalf("the program does not run: %v", err)
			}
			pid := cmd.Process.Pid
			if test.program[0] == "nested" {
				pid = childOf(t, pid)
			}
			if got := host.MayKill(pid, test.uid); got != test.may {
				t.Errorf("may kill: %v, want %v", got, test.may)
			}
		})
	}
}

// childOf is the one child of a process.
func childOf(t *testing.T, pid int) (child int) {
	t.Helper()
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, task.Name()))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Sscan(string(text), &child)
	}
	return child
}
