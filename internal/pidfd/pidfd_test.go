package pidfd_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/holders"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/pidfd"
	"github.com/sockdog/sockdog/internal/sock"
)

// obeysEnv has the test binary be a program that holds sockets, and does what it reads.
const obeysEnv = "SOCKDOG_TEST_OBEYS"

func TestMain(m *testing.M) {
	pidfd.BecomeTrial()
	if os.Getenv(obeysEnv) != "" {
		obey()
		return
	}
	nstest.Main(m)
}

// obey carries out commands, and answers each: "move A B" has the descriptor A be B, and
// "close A" closes it.
func obey() {
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var verb string
		var from, to int
		fmt.Sscan(in.Text(), &verb, &from, &to)
		switch verb {
		case "move":
			fmt.Println(errors.Join(unix.Dup3(from, to, unix.O_CLOEXEC), unix.Close(from)))
		case "close":
			fmt.Println(unix.Close(from))
		}
	}
}

// program is another process, which holds the sockets as its descriptors 3, 4 and so on.
type program struct {
	sock.Holder
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func holding(t *testing.T, sockets ...nstest.Socket) *program {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &program{cmd: exec.Command(self)}
	p.cmd.Env = append(os.Environ(), obeysEnv+"=1")
	p.cmd.Stderr = os.Stderr
	for _, s := range sockets {
		file := os.NewFile(uintptr(s), "socket")
		defer file.Close()
		p.cmd.ExtraFiles = append(p.cmd.ExtraFiles, file)
	}
	out, err1 := p.cmd.StdoutPipe()
	in, err2 := p.cmd.StdinPipe()
	if err := errors.Join(err1, err2, p.cmd.Start()); err != nil {
		t.Fatal(err)
	}
	p.in, p.out = in, bufio.NewScanner(out)
	t.Cleanup(p.end)
	p.await(t, "ready")
	p.PID, p.Comm = p.cmd.Process.Pid, "obedient"
	if p.Start, err = holders.ReadStart("/proc", p.PID); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *program) await(t *testing.T, answer string) {
	t.Helper()
	if !p.out.Scan() || p.out.Text() != answer {
		t.Fatalf("the program says %q, not %q", p.out.Text(), answer)
	}
}

func (p *program) do(t *testing.T, format string, args ...any) {
	t.Helper()
	fmt.Fprintf(p.in, format+"\n", args...)
	p.await(t, "<nil>")
}

func (p *program) end() {
	p.in.Close()
	p.cmd.Wait()
}

// socket is an unconnected one, and what it is known by. The descriptor goes to a program.
func socket(t *testing.T, protocol int) (s nstest.Socket, inode uint32, cookie uint64) {
	t.Helper()
	s, err := nstest.New(nstest.V4, protocol)
	if err == nil {
		inode, err = s.Inode()
	}
	if err == nil {
		cookie, err = s.Cookie()
	}
	if err != nil {
		t.Fatal(err)
	}
	return s, inode, cookie
}

// open duplicates a descriptor, closes it, and makes sure that nothing else stays open.
func open(t *testing.T, o *pidfd.Opener, h *sock.Holder, inode uint32, cookie uint64) error {
	t.Helper()
	before := descriptors(t)
	fd, err := o.Open(h, inode, cookie)
	if err == nil {
		if got, err := nstest.Socket(fd).Cookie(); err != nil || got != cookie {
			t.Errorf("the duplicate is of socket %d (%v), not %d", got, err, cookie)
		}
		unix.Close(fd)
	}
	if after := descriptors(t); after != before {
		t.Errorf("descriptors before: %s, and after: %s", before, after)
	}
	return err
}

func descriptors(t *testing.T) string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func TestOpen(t *testing.T) {
	nstest.Need(t)
	tests := []struct {
		name     string
		protocol int
		meantime func(t *testing.T, p *program) // between the listing and the duplicate
		change   func(h *sock.Holder, inode *uint32, cookie *uint64)
		want     error
	}{
		{"as listed", unix.IPPROTO_TCP, nil, nil, nil},
		{"moved to another descriptor, and its own given to another socket", unix.IPPROTO_TCP, func(t *testing.T, p *program) {
			p.do(t, "move 3 9")
			p.do(t, "move 4 3")
		}, nil, nil},
		{"closed", unix.IPPROTO_TCP, func(t *testing.T, p *program) { p.do(t, "close 3") }, nil, sock.ErrNotHeld},
		{"closed, and its descriptor given to another socket", unix.IPPROTO_TCP, func(t *testing.T, p *program) {
			p.do(t, "close 3")
			p.do(t, "move 4 3")
		}, nil, sock.ErrNotHeld},
		{"ended", unix.IPPROTO_TCP, func(_ *testing.T, p *program) { p.end() }, nil, pidfd.ErrEnded},
		{"the PID of another process", unix.IPPROTO_TCP, nil, func(h *sock.Holder, _ *uint32, _ *uint64) { h.Start-- }, pidfd.ErrEnded},
		{"a start that is not known", unix.IPPROTO_TCP, nil, func(h *sock.Holder, _ *uint32, _ *uint64) { h.Start = 0 }, nil},
		{"the inode of another socket", unix.IPPROTO_TCP, nil, func(_ *sock.Holder, _ *uint32, cookie *uint64) { *cookie++ }, sock.ErrNotHeld},
		{"an inode that nobody holds", unix.IPPROTO_TCP, nil, func(_ *sock.Holder, inode *uint32, _ *uint64) { *inode = 1 }, sock.ErrNotHeld},
		{"MPTCP", unix.IPPROTO_MPTCP, nil, nil, sock.ErrNotHeld},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.protocol == unix.IPPROTO_MPTCP {
				_, err := os.Stat("/proc/sys/net/mptcp/enabled")
				nstest.SkipWithout(t, "MPTCP", err)
			}
			s, inode, cookie := socket(t, test.protocol)
			other, otherInode, otherCookie := socket(t, unix.IPPROTO_TCP)
			p := holding(t, s, other)
			o := &pidfd.Opener{Root: "/proc"}
			if err := open(t, o, &p.Holder, otherInode, otherCookie); err != nil {
				t.Fatal(err) // which lists all of them
			}
			if test.meantime != nil {
				test.meantime(t, p)
			}
			h := p.Holder
			if test.change != nil {
				test.change(&h, &inode, &cookie)
			}
			for range 2 { // from the listing, and from one that was made for it
				if err := open(t, o, &h, inode, cookie); !errors.Is(err, test.want) {
					t.Errorf("error %v, not %v", err, test.want)
				}
				o.Forget()
			}
		})
	}
}

// A process that may not be traced is refused to who has no privilege, and the error says
// who, and what would help.
func TestRefused(t *testing.T) {
	nstest.Need(t)
	s, inode, cookie := socket(t, unix.IPPROTO_TCP)
	p := holding(t, s)
	nstest.WithoutCapabilities(t, func() {
		// The program has capabilities which this thread has not any more.
		err := open(t, &pidfd.Opener{Root: "/proc"}, &p.Holder, inode, cookie)
		if !errors.Is(err, sock.ErrRefused) || !strings.Contains(err.Error(), "(obedient)") || !strings.Contains(err.Error(), "CAP_SYS_PTRACE") {
			t.Error("error", err)
		}
	})
}

// A filter of system calls, as systemd and container runtimes set them, is told from a
// kernel that is too old, and both before anything is tried on others.
func TestFiltered(t *testing.T) {
	nstest.Need(t)
	for _, test := range []struct {
		name   string
		answer uint32 // of the filter to the call
		open   error  // nil: it is not tried, which would end the test
		probe  string // empty: it is possible
	}{
		{"allowed", unix.SECCOMP_RET_ALLOW, nil, ""},
		{"refused, as by container runtimes", unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM), sock.ErrRefused, "a seccomp filter forbids"},
		{"not known to the filter", unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS), pidfd.ErrUnsupported, "Linux 5.6"},
		{"deadly, as by systemd", unix.SECCOMP_RET_KILL_PROCESS, nil, "a seccomp filter forbids"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, inode, cookie := socket(t, unix.IPPROTO_TCP)
			p := holding(t, s)
			filtered(t, unix.SYS_PIDFD_GETFD, test.answer, func() {
				o := &pidfd.Opener{Root: "/proc"}
				if test.open != nil {
					if err := open(t, o, &p.Holder, inode, cookie); !errors.Is(err, test.open) {
						t.Errorf("error %v, not %v", err, test.open)
					}
				}
				err := o.Probe()
				if test.probe == "" && err != nil || test.probe != "" && (err == nil || !strings.Contains(err.Error(), test.probe)) {
					t.Errorf("the probe says %v, not %q", err, test.probe)
				}
			})
		})
	}
}

// filtered runs f on a thread on which a system call ends as a filter says.
func filtered(t *testing.T, call, answer uint32, f func()) {
	t.Helper()
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // seccomp_data.nr
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: call, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: answer},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	done := make(chan error)
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the filter ends with the thread
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			done <- err
			return
		}
		if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0); err != nil {
			done <- err
			return
		}
		f()
	}()
	if err := <-done; err != nil {
		t.Fatal("filter system calls: ", err)
	}
}
