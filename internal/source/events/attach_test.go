package events_test

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/source/events"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// await waits for what another process is about to do.
func await(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// alone waits until no other programs are called for the tests' cgroup than the test's own: a
// watchdog that is attached above, as by tests of other packages, flags its connections too.
func alone(t testing.TB, programs int) bool {
	t.Helper()
	const effective = 1 // BPF_F_QUERY_EFFECTIVE
	for deadline := time.Now().Add(10 * time.Second); must(query(string(own), effective))(t) != programs; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Log("not tested: other programs are attached above")
			return false
		}
	}
	return true
}

// TestKilled: nothing stays attached after SIGKILL.
func TestKilled(t *testing.T) {
	need(t)
	victim := start(t, "attach", nil)
	if n := attachedTo(t, own); n != 1 {
		t.Errorf("%d programs are attached", n)
	}
	check(t, victim.Process.Kill())
	await(t, "the program is detached", func() bool { return attachedTo(t, own) == 0 })
}

// TestSideBySide: another watchdog's programs neither disturb ours nor are disturbed.
func TestSideBySide(t *testing.T) {
	one := attach(t, 100, events.Covered)
	two := must(events.Load(100))(t)
	defer two.Close()
	check(t, two.Attach(string(own)))
	check(t, two.Table().Want(ssfilter.Of(ssfilter.CloseWait)))
	if n := attachedTo(t, own); n != 2 {
		t.Errorf("%d programs are attached", n)
	}
	p := connect(t, nstest.V4)
	before := now(t)
	check(t, p.client.CloseWrite())
	check(t, p.server.Await(unix.BPF_TCP_CLOSE_WAIT))
	entered(t, two.Table(), p.server, ssfilter.CloseWait, before, now(t))
	if all := read(t, one.Table()); len(all) != 2 {
		t.Errorf("the table of all states has %v", all)
	}
	two.Close()
	check(t, p.server.CloseWrite())
	left(t, one.Table(), p.server)
}

// TestBelow: a program that is attached to a cgroup sees the sockets of those below it.
func TestBelow(t *testing.T) {
	p := attach(t, 100, ssfilter.Of(ssfilter.CloseWait))
	below := must(own.New("below"))(t)
	check(t, below.Enter())
	defer func() { check(t, errors.Join(own.Enter(), below.Remove())) }()
	c := connect(t, nstest.V4)
	before := now(t)
	check(t, c.client.CloseWrite())
	check(t, c.server.Await(unix.BPF_TCP_CLOSE_WAIT))
	entered(t, p.Table(), c.server, ssfilter.CloseWait, before, now(t))
}

// TestFull: what the table has no place for is counted.
func TestFull(t *testing.T) {
	const places = 100
	p := attach(t, places, ssfilter.Of(ssfilter.CloseWait))
	table := p.Table()
	l := must(nstest.Listen(nstest.V4))(t)
	defer l.Close()
	var all []pair
	for range places + 20 {
		c := connectTo(t, l)
		check(t, c.client.CloseWrite())
		check(t, c.server.Await(unix.BPF_TCP_CLOSE_WAIT))
		all = append(all, c)
	}
	if n := len(read(t, table)); n != places || table.Places() != places {
		t.Errorf("%d sockets in %d places", n, table.Places())
	}
	if lost := must(table.Lost())(t); lost != 20 {
		t.Errorf("%d events are counted as lost, of 20", lost)
	}
	for _, c := range all {
		check(t, c.server.CloseWrite())
	}
	if left := read(t, table); len(left) > 0 {
		t.Errorf("the table has still %v", left)
	}
	if lost := must(table.Lost())(t); lost != 20 {
		t.Errorf("%d events are counted as lost at the end", lost)
	}
}

// TestDetach: what becomes of sockets after it is not seen, and so nothing is told of them.
func TestDetach(t *testing.T) {
	p := attach(t, 100, ssfilter.Of(ssfilter.CloseWait))
	c := connect(t, nstest.V4)
	check(t, c.client.CloseWrite())
	check(t, c.server.Await(unix.BPF_TCP_CLOSE_WAIT))
	check(t, p.Detach())
	check(t, p.Attach(string(own)))
	left(t, p.Table(), c.server)
	if _, can := flag(t, p); can {
		entered(t, p.Table(), c.server, ssfilter.CloseWait, 0, 0)
	}
}

// TestRefused: why there are no programs, where there are none to be had.
func TestRefused(t *testing.T) {
	need(t)
	for _, test := range []struct {
		name, act string
		attr      *syscall.SysProcAttr
		want      string
	}{
		{
			name: "seccomp", act: "forbidden",
			want: "call bpf(2): operation not permitted (a seccomp filter is in force)",
		}, {
			name: "a loader that dies", act: "deadly",
			want: "the loader of eBPF programs failed: signal: bad system call: ",
		}, {
			name: "user namespace", act: "load",
			attr: &syscall.SysProcAttr{
				Cloneflags:  unix.CLONE_NEWUSER,
				UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}},
				GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}},
			},
			want: "call bpf(2): operation not permitted (its capabilities are those of a user namespace, where eBPF is not to be had)",
		}, {
			name: "user", act: "load",
			attr: &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}},
			want: "call bpf(2): operation not permitted (it lacks CAP_BPF and CAP_NET_ADMIN)",
		}, {
			name: "CAP_BPF alone", act: "load",
			attr: &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}, AmbientCaps: []uintptr{unix.CAP_BPF}},
			want: "load the program that follows states: operation not permitted (it lacks CAP_NET_ADMIN)",
		}, {
			name: "without CAP_PERFMON", act: "load",
			attr: &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}, AmbientCaps: []uintptr{unix.CAP_BPF, unix.CAP_NET_ADMIN}},
			want: "load the iterator over descriptors: operation not permitted (it lacks CAP_PERFMON)",
		}, {
			name: "all three", act: "load",
			attr: &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}, AmbientCaps: []uintptr{unix.CAP_BPF, unix.CAP_NET_ADMIN, unix.CAP_PERFMON}},
			want: "<nil>", // but for what an older kernel lacks
		}, {
			name: "PID namespace", act: "load",
			attr: &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID},
			want: "load the iterator over descriptors: this is a PID namespace of its own, in which the kernel's process ids mean nothing (hostPID)",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := start(t, test.act, test.attr).said
			if test.want == "<nil>" && !kernel(t, 6, 1) {
				test.want = got
			}
			if got != test.want {
				t.Errorf("it says %q, not %q", got, test.want)
			}
		})
	}
}

// TestConflict: a program that allows no other beside it keeps ours away.
func TestConflict(t *testing.T) {
	p := load(t, 100)
	below := must(own.New("conflict"))(t)
	defer func() { check(t, below.Remove()) }()
	program := must(ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SockOps, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	}))(t)
	defer program.Close()
	dir := must(os.Open(string(below)))(t)
	defer dir.Close()
	check(t, link.RawAttachProgram(link.RawAttachProgramOptions{Target: int(dir.Fd()), Program: program, Attach: ebpf.AttachCGroupSockOps}))
	err := p.Attach(string(below))
	if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "a program is attached that allows no other beside it") {
		t.Errorf("Attach: %v", err)
	}
	check(t, link.RawDetachProgram(link.RawDetachProgramOptions{Target: int(dir.Fd()), Program: program, Attach: ebpf.AttachCGroupSockOps}))
	check(t, p.Attach(string(below)))
	check(t, p.Detach())
}

// TestNoCgroup: why nothing can be attached.
func TestNoCgroup(t *testing.T) {
	p := load(t, 100)
	for dir, want := range map[string]string{
		"/nowhere": "attach to cgroup /nowhere: no such file or directory",
		"/proc":    "attach to cgroup /proc: bad file descriptor (not a directory of cgroup v2)",
	} {
		if err := p.Attach(dir); err == nil || err.Error() != want {
			t.Errorf("%s: %v", dir, err)
		}
	}
	if _, err := events.Load(0); err == nil {
		t.Error("a table without places")
	}
	root := must(events.CgroupRoot())(t)
	if !strings.HasPrefix(string(own), root+"/") {
		t.Errorf("the root of cgroup v2 is %s, and the tests' cgroup %s", root, own)
	}
	got := start(t, "contained", &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP}).said
	if want := root + " shows a part of cgroup v2 only: mount the host's /sys/fs/cgroup"; got != want {
		t.Errorf("in a container it says %q, not %q", got, want)
	}
}
