package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/sockdog/sockdog/internal/source/events"
)

// attached returns the programs that a process has attached to cgroups.
func attached(t *testing.T, pid int) (programs []ebpf.ProgramID) {
	t.Helper()
	files := must(filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid)))(t)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(text), "link_type:\tcgroup") {
			continue
		}
		for line := range strings.Lines(string(text)) {
			var id ebpf.ProgramID
			if n, _ := fmt.Sscanf(line, "prog_id:\t%d", &id); n == 1 {
				programs = append(programs, id)
			}
		}
	}
	return programs
}

// isAttached reports whether a program is attached to the root of cgroup v2.
func isAttached(t *testing.T, id ebpf.ProgramID) bool {
	t.Helper()
	root := must(os.Open(must(events.CgroupRoot())(t)))(t)
	defer root.Close()
	all := must(link.QueryPrograms(link.QueryOptions{Target: int(root.Fd()), Attach: ebpf.AttachCGroupSockOps}))(t)
	for _, p := range all.Programs {
		if p.ID == id {
			return true
		}
	}
	return false
}

// SIGKILL leaves nothing attached.
func TestNothingStaysAttached(t *testing.T) {
	needEvents(t)
	w := watch(t, allLeaks)
	w.says("sockets come from events")
	programs := attached(t, w.cmd.Process.Pid)
	if len(programs) != 1 || !isAttached(t, programs[0]) {
		t.Fatalf("programs %v are attached, want one", programs)
	}
	w.kill()
	until(t, "end of the attachment", func() bool { return !isAttached(t, programs[0]) })
}

// Two watchdogs side by side do no harm: both see all, and each socket dies once, in time.
func TestSideBySide(t *testing.T) {
	needEvents(t)
	p := newPlace(t)
	both := []*watchdog{watch(t, allLeaks), watch(t, allLeaks)}
	for _, w := range both {
		w.says("sockets come from events")
	}
	busy := newPlace(t)
	busy.do("half-closed")
	var all []report
	for range 20 {
		all = append(all, p.do("plain"))
	}
	for _, s := range all {
		if late := p.dies(s, bound); late > tooLate {
			t.Errorf("killed %v late", late)
		}
	}
	for _, w := range both {
		w.stop()
	}
	busy.fine()
	done := make(map[uint64]int)
	for _, w := range both {
		for _, l := range w.find(func(l line) bool { return l.Result != "" }) {
			switch l.Result {
			case "done":
				done[l.Cookie]++
			case "gone":
			default:
				t.Errorf("%+v", l)
			}
		}
		if n := w.count("kill failed"); n > 0 {
			t.Errorf("%d kills failed", n)
		}
	}
	t.Logf("%d sockets were killed by one or both", len(done))
}

// A program that holds the lock of a socket keeps neither the sockets of others nor the end
// of the watchdog waiting, be it there before the watchdog or after.
func TestLockedSocket(t *testing.T) {
	needEvents(t)
	for name, before := range map[string]bool{"before": true, "after": false} {
		t.Run(name, func(t *testing.T) {
			locked, other := newPlace(t), newPlace(t)
			if before {
				locked.do("locked")
			}
			w := begin(t, allLeaks)
			t.Cleanup(locked.end) // before sockdog ends: what waits in the kernel for the lock ends with it
			w.says("watching")
			w.says("sockets come from events")
			if before {
				left := w.says("scan of a network namespace does not end; it is left out")
				if left.Netns != fmt.Sprint(locked.netns) || !strings.Contains(left.Reason, "holds the lock of a socket") {
					t.Errorf("left out is %s, by reason of %q, want %d", left.Netns, left.Reason, locked.netns)
				}
			} else {
				locked.do("locked")
			}
			// Once it is known who is locked, nobody waits.
			t.Logf("killed %v late", other.dies(other.do("plain"), bound))
			for range 2 {
				late := other.dies(other.do("plain"), bound)
				t.Logf("killed %v late", late)
				if late > tooLate {
					t.Errorf("killed %v late", late)
				}
			}
			began := time.Now()
			check(t, w.cmd.Process.Signal(unix.SIGTERM))
			w.says("stopped")
			if took := time.Since(began); took > 3*time.Second {
				t.Errorf("it ended after %v", took)
			}
		})
	}
}

// A program that holds the lock of a socket keeps nobody from killing in other network
// namespaces by hand, and whoever means its namespace, too, is told that it cannot be read.
func TestKillBesideALockedSocket(t *testing.T) {
	need(t)
	locked, other := newPlace(t), newPlace(t)
	locked.do("locked")
	stuck := other.do("plain")
	kill := func(netns ...uint32) *exec.Cmd {
		cmd := exec.Command(sockdog, "kill", "--yes", "--daemon", "off", "state", "close-wait")
		for _, n := range netns {
			cmd.Args = append(cmd.Args, "--netns", fmt.Sprint(n))
		}
		return cmd
	}
	both := kill(locked.netns, other.netns)
	said := must(both.StderrPipe())(t)
	check(t, both.Start())
	t.Cleanup(func() {
		locked.end() // first: what waits in the kernel for the lock ends with it
		both.Process.Kill()
		both.Wait()
	})
	check(t, said.(*os.File).SetReadDeadline(time.Now().Add(time.Minute)))
	want, last := fmt.Sprintf("network namespace %d cannot be read", locked.netns), ""
	for lines := bufio.NewScanner(said); !strings.Contains(last, want); last = lines.Text() {
		if !lines.Scan() {
			t.Fatalf("said %q last, %v, want %q; its threads are in\n%s", last, lines.Err(), want, stacks(both.Process.Pid))
		}
	}
	if other.died(stuck) != 0 {
		t.Error("it killed though it could not read all that was meant")
	}
	if said, err := kill(other.netns).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, said)
	}
	other.until("end of the stuck socket", func() bool { return other.died(stuck) != 0 })
}

// stacks are where in the kernel the threads of a process are.
func stacks(pid int) string {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stack", pid)) // the pattern is a good one
	var all []byte
	for _, file := range files {
		text, _ := os.ReadFile(file) // a thread may end
		all = append(append(all, file...), '\n')
		all = append(all, text...)
	}
	return string(all)
}

// In a time namespace, whose clock is ahead of the host's by days, ages are true.
func TestTimeNamespace(t *testing.T) {
	needEvents(t)
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		t.Skip("needs unshare(1)")
	}
	p := newPlace(t)
	for _, offset := range []string{"-1000", "1000000"} {
		w := watch(t, allLeaks, func(c *exec.Cmd) {
			c.Args = append([]string{unshare, "--time", "--monotonic", offset, "--boottime", offset, "--fork", "--kill-child", "--"}, c.Args...)
			c.Path = unshare
		})
		w.says("sockets come from events")
		s := p.do("plain")
		if late := p.dies(s, bound); late > tooLate {
			t.Errorf("offset %s: killed %v late", offset, late)
		}
		told := w.await("record", func(l line) bool { return l.Cookie == s.Stuck && l.Result == "done" })
		if told.Age < bound.Seconds() || told.Age > (bound+tooLate).Seconds() || told.PID != p.cmd.Process.Pid {
			t.Errorf("offset %s: the record says %+v", offset, told)
		}
		w.kill()
	}
}

// Where bpf(2) is forbidden sockets come from sock_diag, which is said once, with the reason.
func TestForbidden(t *testing.T) {
	need(t)
	p := newPlace(t)
	w := watch(t, allLeaks, func(c *exec.Cmd) {
		c.Env = append(os.Environ(), actEnv+"=forbidden")
		c.Args = append([]string{os.Args[0]}, c.Args...)
		c.Args[1] = sockdog
		c.Path = must(os.Executable())(t)
	})
	told := w.says("sockets come from sock_diag; events cannot be had")
	if want := "call bpf(2): operation not permitted (a seccomp filter is in force)"; told.Reason != want || told.Level != "INFO" {
		t.Errorf("it says %q, not %q", told.Reason, want)
	}
	t.Logf("killed %v late", p.dies(p.do("plain"), bound))
	if n := w.count("sockets come from"); n != 1 {
		t.Errorf("it was said %d times", n)
	}
}

// forbidden runs the program of the arguments without bpf(2).
func forbidden() error {
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // seccomp_data.nr
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_BPF, Jt: 0, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	os.Unsetenv(actEnv)
	return errors.Join(
		unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
		unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0),
		syscall.Exec(os.Args[1], os.Args[1:], os.Environ()),
	)
}

// after has a shell do something in the watchdog's process before it begins.
func after(script string, args ...string) func(*exec.Cmd) {
	return func(c *exec.Cmd) {
		c.Args = slices.Concat([]string{"sh", "-ec", script + "; shift " + strconv.Itoa(len(args)) + `; exec "$@"`, "sh"}, args, c.Args)
		c.Path = "/bin/sh"
	}
}

// A kernel without BTF tells of stuck sockets all the same, but for who holds them and for
// older connections, which sock_diag and /proc tell.
func TestWithoutBTF(t *testing.T) {
	needEvents(t)
	p := newPlace(t)
	older := p.do("plain")
	w := watch(t, allLeaks, after(`mount -t tmpfs none /sys/kernel/btf`), func(c *exec.Cmd) { c.SysProcAttr.Cloneflags |= unix.CLONE_NEWNS })
	w.says("sockets come from events")
	for _, s := range []report{older, p.do("plain")} {
		t.Logf("killed %v late", p.dies(s, bound))
		told := w.await("record", func(l line) bool { return l.Cookie == s.Stuck && l.Result == "done" })
		if told.PID != p.cmd.Process.Pid {
			t.Errorf("the record has pid %d, want %d", told.PID, p.cmd.Process.Pid)
		}
	}
}

// Without cgroup v2 there is nothing to attach to: sockets come from sock_diag, which is said
// once, with the reason.
func TestWithoutCgroup2(t *testing.T) {
	needEvents(t)
	p := newPlace(t)
	root := must(events.CgroupRoot())(t)
	w := watch(t, allLeaks, after(`umount -l "$1"`, root), func(c *exec.Cmd) { c.SysProcAttr.Cloneflags |= unix.CLONE_NEWNS })
	if told := w.says("sockets come from sock_diag; events cannot be had"); told.Reason != "cgroup v2 is not mounted" || told.Level != "INFO" {
		t.Errorf("it says %q at level %s", told.Reason, told.Level)
	}
	t.Logf("killed %v late", p.dies(p.do("plain"), bound))
	if n := w.count("sockets come from"); n != 1 {
		t.Errorf("it was said %d times", n)
	}
}

// A table that has no room in the memory of a small container is full before that is, and
// the sockets that it lacks are found all the same.
func TestSmallMemory(t *testing.T) {
	needEvents(t)
	const limit = 32 << 20
	group := newMemoryCgroup(t, limit)
	for range 2 {
		newPlace(t).do("flood")
	}
	w := watch(t, fmt.Sprintf(`
settings: {namespaces: all}
rules:
  - name: many
    match: {state: close-wait}
    when: count > %d
    for: 1s
`, 2*flood-1), after(`echo $$ >"$1"`, filepath.Join(group, "cgroup.procs")))
	w.says("sockets come from events")
	w.says("the table of events is full; scans go on by sock_diag")
	w.await("the rule fires", func(l line) bool { return l.Rule == "many" && strings.Contains(l.Msg, "fir") })
	if err := w.cmd.Process.Signal(unix.Signal(0)); err != nil {
		t.Errorf("it has ended: %v", err)
	}
}

// newMemoryCgroup makes a cgroup with a limit on memory, of either version.
func newMemoryCgroup(t *testing.T, limit int) string {
	t.Helper()
	for root, file := range map[string]string{"/sys/fs/cgroup/memory": "memory.limit_in_bytes", "/sys/fs/cgroup": "memory.max"} {
		group, err := os.MkdirTemp(root, "sockdog-test-")
		if err != nil {
			continue
		}
		t.Cleanup(func() { os.Remove(group) })
		if f, err := os.OpenFile(filepath.Join(group, file), os.O_WRONLY, 0); err == nil {
			defer f.Close()
			must(f.WriteString(strconv.Itoa(limit)))(t)
			return group
		}
	}
	t.Skip("needs the memory controller of cgroups")
	return ""
}
