package holders

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
)

// statOf is a line of /proc/PID/stat of a process in that state, with so many threads.
func statOf(pid int, state string, flags, threads int) string {
	return strconv.Itoa(pid) + " (x) " + state + " 1 10 10 0 -1 " + strconv.Itoa(flags) + " 0 0 0 0 5 5 0 0 20 0 " + strconv.Itoa(threads) + " 0 77 0 0\n"
}

const otherID = "aa7f0ec4fbcbb70c69565a5b2d269926e04ec5601dff59235199d6e60198e95c"

// Of a process that cannot be read it is known that it holds nothing together with those
// who belong elsewhere, and that one which has no descriptors holds nothing at all.
func TestSettled(t *testing.T) {
	nstest.Need(t)
	const service, otherService, scope = "0::/system.slice/a.service\n", "0::/system.slice/b.service\n", "0::/user.slice/user-1.slice/session-1.scope\n"
	inOther := strings.ReplaceAll(inPod, containerID, otherID)
	for _, test := range []struct {
		name                 string
		holder, unread, stat string
		refused              int
		complete, settled    bool
	}{
		{name: "one of the same service", holder: service, unread: service, refused: 1},
		{name: "one of another service", holder: service, unread: otherService, refused: 1, settled: true},
		{name: "one of the same container", holder: inPod, unread: inPod, refused: 1},
		{name: "one of another container of the pod", holder: inPod, unread: inOther, refused: 1, settled: true},
		{name: "one outside of the container", holder: inPod, unread: service, refused: 1, settled: true},
		{name: "a scope, whose processes somebody else has forked", holder: scope, unread: service, refused: 1},
		{name: "init, whose children all are", holder: service, unread: "0::/init.scope\n", refused: 1},
		{name: "one of whom nothing is known", holder: service, unread: "0::/strange/one\n", refused: 1},
		{name: "one whose cgroup cannot be read", holder: service, refused: 1},
		{name: "a holder of whom nothing is known", holder: "0::/strange/one\n", unread: service, refused: 1},
		{name: "a holder whose cgroup cannot be read", unread: service, refused: 1},
		{name: "a thread of the kernel", holder: service, unread: "0::/\n", stat: statOf(10, "S", pfKthread, 1), complete: true},
		{name: "one that has ended", holder: service, unread: service, stat: statOf(10, "Z", 0, 1), complete: true},
		{name: "one whose first thread has ended", holder: service, unread: service, stat: statOf(10, "Z", 0, 2), refused: 1},
		{name: "one with a strange stat", holder: service, unread: service, stat: "x", refused: 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.stat == "" {
				test.stat = statOf(10, "S", 0, 1)
			}
			fds := map[string]string{"3": "socket:[100]"}
			root := fakeProc(t, map[int]process{2: {comm: "kthreadd", stat: kthreadd}, 10: {comm: "unread", stat: test.stat, fds: fds}, 11: {comm: "seen", stat: statOf(11, "S", 0, 1), fds: fds}})
			for pid, text := range map[string]string{"10": test.unread, "11": test.holder} {
				if text != "" {
					belongs(t, root, map[string]string{pid: text})
				}
			}
			hidden := filepath.Join(root, "10", "fd")
			if err := os.Chmod(hidden, 0); err != nil {
				t.Fatal(err)
			}
			defer os.Chmod(hidden, 0o700)
			nstest.WithoutCapabilities(t, func() {
				found, err := Find(root, set([]uint32{100}))
				if err != nil || len(found.Holders[100]) != 1 || found.Holders[100][0].PID != 11 {
					t.Fatalf("%+v, error %v", found.Holders, err)
				}
				if found.Access.Refused != test.refused || found.Complete != test.complete {
					t.Errorf("refused %d, complete %v", found.Access.Refused, found.Complete)
				}
				if settled := found.Settled[found.Holders[100][0].Owner]; settled != test.settled {
					t.Errorf("settled: %v, want %v", settled, test.settled)
				}
			})
		})
	}
}

// Where a walk leaves it open who holds a socket, a pass that failed is tried once more, and
// not elsewhere.
func TestFindAskingAgain(t *testing.T) {
	nstest.Need(t)
	fds := map[string]string{"3": "socket:[100]"}
	root := fakeProc(t, map[int]process{2: {comm: "kthreadd", stat: kthreadd}, 10: {comm: "unread", stat: statOf(10, "S", 0, 1)}, 11: {comm: "seen", stat: statOf(11, "S", 0, 1), fds: fds}})
	belongs(t, root, map[string]string{"10": "0::/system.slice/a.service\n", "11": "0::/system.slice/b.service\n"})
	hidden := filepath.Join(root, "10", "fd")
	if err := os.Chmod(hidden, 0); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(hidden, 0o700)
	for _, test := range []struct {
		name   string
		wanted []uint32
		fails  int // calls, at first
		passes int
		exact  bool
	}{
		{"what is settled", []uint32{100}, 1, 1, false},
		{"what nobody is seen to hold", []uint32{100, 101}, 1, 2, true},
		{"and the pass fails again", []uint32{100, 101}, 2, 2, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			nstest.WithoutCapabilities(t, func() {
				passes := 0
				found, err := FindAsking(root, func([]uint32, func(uint32, sock.Holder)) error {
					if passes++; passes <= test.fails {
						return errors.ErrUnsupported
					}
					return nil
				}, set(test.wanted), nil)
				if err != nil || passes != test.passes || found.Complete != test.exact || !found.Complete && len(found.Holders[100]) != 1 {
					t.Errorf("%d passes, %+v, error %v", passes, found, err)
				}
			})
		})
	}
}

// Where /proc hides processes of the host, nobody knows what those hold.
func TestHiddenSettlesNothing(t *testing.T) {
	root := fakeProc(t, map[int]process{10: {comm: "seen", stat: statOf(10, "S", 0, 1), fds: map[string]string{"3": "socket:[100]"}}})
	belongs(t, root, map[string]string{"10": inPod})
	found, err := Find(root, set([]uint32{100}))
	if err != nil || found.Complete || found.Settled[found.Holders[100][0].Owner] || !found.Access.Hidden {
		t.Errorf("%+v, error %v", found, err)
	}
}

// A process that hangs may hold anything.
func TestHungSettlesNothing(t *testing.T) {
	fds := map[string]string{"3": "socket:[100]"}
	root := fakeProc(t, map[int]process{2: {comm: "kthreadd", stat: kthreadd}, 10: {comm: "hung", fds: fds}, 11: {comm: "seen", fds: fds}})
	belongs(t, root, map[string]string{"10": inPod, "11": "0::/system.slice/a.service\n"})
	f := NewFinder(root, nil)
	f.skip = []int{10}
	found, err := f.Find(set([]uint32{100}))
	if err != nil || found.Complete || found.Settled[found.Holders[100][0].Owner] {
		t.Errorf("%+v, error %v", found, err)
	}
}

const pidNamespaceEnv = "SOCKDOG_TEST_PID_NAMESPACE"

// In a PID namespace of its own, what a process of it holds is held by those that are shown,
// unless one of them cannot be read or some are hidden.
func TestInPIDNamespace(t *testing.T) {
	nstest.Need(t)
	if os.Getenv(pidNamespaceEnv) == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestInPIDNamespace$", "-test.v")
		cmd.Env = append(os.Environ(), pidNamespaceEnv+"=yes")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
		out, err := cmd.CombinedOutput()
		if t.Logf("%s", out); err != nil {
			t.Error(err)
		}
		return
	}
	mount := func(at, options string) {
		t.Helper()
		err := unix.Mount("proc", at, "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, options)
		nstest.SkipWithout(t, "a /proc of its own", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	mount("/proc", "")
	socket := listening(t)
	inode, err := socket.Inode()
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(must(unix.Dup(int(socket)))(t)), "socket")
	start := func(name string, args ...string) *exec.Cmd {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.ExtraFiles = []*os.File{file}
		if _, err := cmd.StdinPipe(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	runtime.LockOSThread()                                                 // never unlocked: what it starts has no capabilities
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, 1, 0, 0, 0); err != nil { // SECBIT_NOROOT
		t.Fatal(err)
	}
	child := start("cat").Process.Pid
	expect := func(root string, holders, refused int, hidden, settled bool) {
		t.Helper()
		nstest.WithoutCapabilities(t, func() {
			found, err := Find(root, set([]uint32{inode}))
			if err != nil {
				t.Fatal(err)
			}
			a := found.Access
			if len(found.Holders[inode]) != holders || a.Refused != refused || a.Hidden != hidden || !a.Contained || a.AllShown || found.Complete {
				t.Errorf("%+v, complete %v, holders %+v", a, found.Complete, found.Holders)
			}
			if got := found.Settled[found.Holders[inode][0].Owner]; got != settled {
				t.Errorf("settled: %v", got)
			}
		})
	}
	expect("/proc", 2, 0, false, true)
	zombie := start("true").Process.Pid
	if err := waitid(zombie); err != nil {
		t.Fatal(err)
	}
	expect("/proc", 2, 0, false, true)

	hiding := t.TempDir()
	mount(hiding, "hidepid=invisible")
	defer unix.Unmount(hiding, unix.MNT_DETACH)
	expect(hiding, 2, 0, true, false)

	// One that has more capabilities than the reader.
	started := make(chan int)
	go func() { started <- start("cat").Process.Pid }()
	shy := <-started
	expect("/proc", 2, 1, false, false)
	if err := errors.Join(unix.Kill(shy, unix.SIGKILL), waitid(shy)); err != nil {
		t.Fatal(err)
	}
	expect("/proc", 2, 0, false, true)
	unix.Kill(child, unix.SIGKILL)
}

// waitid waits until a child has ended, and leaves it a zombie.
func waitid(pid int) error {
	return unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
}

func listening(t *testing.T) nstest.Socket {
	t.Helper()
	s, err := nstest.Listen(nstest.V4)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
