package action

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// child is a process that sleeps until it is signalled.
func child(t *testing.T) (cmd *exec.Cmd, self process) {
	t.Helper()
	cmd = exec.Command("/bin/sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	self, err := readProcess("/proc", cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return cmd, self
}

func TestSignal(t *testing.T) {
	cmd, self := child(t)
	one, err := readProcess("/proc", 1)
	if err != nil {
		t.Fatal(err)
	}
	me, err := readProcess("/proc", os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name      string
		p         process
		contained bool
		allow     bool
		recheck   match.Reason
		changed   match.Reason
		gone      bool
		err       string // within the error; "": none
	}{
		{name: "no such process", p: process{pid: 1 << 22, start: 1}, gone: true},
		{name: "another of its number", p: process{pid: self.pid, start: self.start + 1}, gone: true},
		{name: "sockdog itself", p: me, err: "sockdog itself"},
		{name: "process 1 of the host", p: one, allow: true, err: "runs this host"},
		{name: "process 1 of a container", p: one, contained: true, err: "allow_pid_1"},
		{name: "no longer so", p: self, recheck: match.GroupEnded, changed: match.GroupEnded},
		{name: "signalled", p: self},
	} {
		t.Run(test.name, func(t *testing.T) {
			x := Runner{
				Kinds: Kinds(), Now: func() sock.Instant { return 1 }, ProcRoot: "/proc", Contained: func() bool { return test.contained },
				Recheck: func(*engine.GroupAction) (match.Reason, error) { return test.recheck, nil },
			}
			got := x.Run(t.Context(), &engine.GroupAction{
				Process: sock.Holder{PID: test.p.pid, Start: test.p.start},
				Action:  &rules.Action{Kind: rules.Signal, Signal: &rules.SignalOptions{Signal: "TERM", AllowPID1: test.allow}},
			})
			text := ""
			if got.Err != nil && !got.Gone {
				text = got.Err.Error()
			}
			if got.Gone != test.gone || got.Changed != test.changed || (text == "") != (test.err == "") || !strings.Contains(text, test.err) {
				t.Errorf("gone %t, changed %q, error %v", got.Gone, got.Changed, got.Err)
			}
		})
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), unix.SIGTERM.String()) {
		t.Errorf("it ended by %v", err)
	}
}

// A thread of the kernel is known by its flags, and what a process handles by its status.
func TestReadProcess(t *testing.T) {
	root := t.TempDir()
	write := func(pid, stat, status string) {
		dir := root + "/" + pid
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"stat": stat, "status": status} {
			if err := os.WriteFile(dir+"/"+name, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	write("2", "2 (kworker/0:0) S 0 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 7 0", "Name:\tkworker\nSigCgt:\t0000000000000000\n")
	write("1", "1 (a) b) S 0 1 1 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 42 0", "Name:\ta\nSigCgt:\t0000000000004000\n")
	kernel, err := readProcess(root, 2)
	if err != nil || !kernel.kernel || kernel.start != 7 {
		t.Errorf("%+v, error %v", kernel, err)
	}
	app, err := readProcess(root, 1)
	if err != nil || app.kernel || app.start != 42 || app.comm != "a) b" || !app.catches(root, unix.SIGTERM) || app.catches(root, unix.SIGHUP) || app.catches(root, unix.SIGKILL) {
		t.Errorf("%+v, error %v", app, err)
	}
	x := &Runner{ProcRoot: root, Contained: func() bool { return true }}
	for _, test := range []struct {
		p      process
		allow  bool
		number unix.Signal
		want   string
	}{
		{kernel, true, unix.SIGTERM, "thread of the kernel"}, {app, false, unix.SIGTERM, "allow_pid_1"},
		{app, true, unix.SIGHUP, "no handler"}, {app, true, unix.SIGKILL, "no handler"}, {app, true, unix.SIGTERM, ""},
	} {
		if err := test.p.refuses(x, test.allow, test.number); (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s, signal %s: %v, want %q", test.p.comm, test.number, err, test.want)
		}
	}
}
