package nstest

import (
	"io"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { Main(m) }

func TestMainGivesRootInANamespaceOfItsOwn(t *testing.T) {
	Need(t)
	if uid := os.Geteuid(); uid != 0 {
		t.Errorf("euid %d, want 0", uid)
	}
	routes, err := os.ReadFile("/proc/thread-self/net/route")
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(string(routes), "\n"); lines > 1 {
		t.Errorf("the namespace has routes to the outside:\n%s", routes)
	}
	l, err := Listen(V4)
	if err != nil {
		t.Fatalf("the loopback interface does not work: %v", err)
	}
	l.Close()
}

// Where user namespaces are forbidden root has a network namespace all the same;
// without root's rights the tests are skipped, and in CI that is a failure.
func TestNamespacesForbidden(t *testing.T) {
	Need(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	isolate := self + " -test.run=^TestIsolate$ -test.v"
	const drop = "setpriv --bounding-set=-sys_admin "
	tests := map[string]struct {
		command string
		env     string
		fails   bool
		want    string
	}{
		"root":           {isolate, "CI=", false, "--- PASS: TestIsolate/one"},
		"nobody":         {drop + isolate, "CI=", false, "--- SKIP: TestIsolate/one"},
		"nobody, and CI": {drop + isolate, "CI=true", true, "--- FAIL: TestIsolate/one"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command("sh", "-c", "echo 0 >/proc/sys/user/max_user_namespaces && exec "+tt.command)
			cmd.Env = append(os.Environ(), insideEnv+"=", tt.env)
			// Its limit holds in a user namespace of its own, and below.
			cmd.SysProcAttr = &syscall.SysProcAttr{
				Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
				UidMappings: []syscall.SysProcIDMap{{Size: 1}},
				GidMappings: []syscall.SysProcIDMap{{Size: 1}},
			}
			out, err := cmd.CombinedOutput()
			if (err != nil) != tt.fails || !strings.Contains(string(out), tt.want) {
				t.Errorf("%v, want %q in\n%s", err, tt.want, out)
			}
		})
	}
}

// What the tests start must not enter a second namespace.
func TestChildrenStayInside(t *testing.T) {
	Need(t)
	if os.Getenv("NSTEST_CHILD") != "" {
		return
	}
	// Of this thread: that of the process is its first thread's, and Isolate may
	// have sent that one elsewhere.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ns, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("readlink", "/proc/self/ns/net")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(string(out)); got != ns {
		t.Errorf("child in %s, parent in %s", got, ns)
	}
	cmd = exec.Command("/proc/self/exe", "-test.run=TestChildrenStayInside", "-test.count=1")
	cmd.Env = append(os.Environ(), "NSTEST_CHILD=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("a test binary started by a test: %v\n%s", err, out)
	}
}

func TestIsolate(t *testing.T) {
	for _, name := range []string{"one", "other"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			Isolate(t)
			// Both can have the same port only in namespaces of their own.
			l, err := ListenAt(netip.AddrPortFrom(V4, 7), unix.IPPROTO_TCP)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			p, err := NewPair(l)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
		})
	}
}

func TestCloseWait(t *testing.T) {
	Isolate(t)
	for name, addr := range map[string]netip.Addr{"v4": V4, "v6": V6, "mapped": Mapped} {
		for _, side := range []Side{ClientSide, ServerSide} {
			leak, err := CloseWait(addr, side, 3)
			if err != nil {
				t.Fatalf("%s side %d: %v", name, side, err)
			}
			local, err := leak.Stuck[0].Local()
			if err != nil {
				t.Fatal(err)
			}
			if local.Addr() != addr {
				t.Errorf("%s side %d: local address %v, want %v", name, side, local.Addr(), addr)
			}
			if err := leak.Stuck[0].Receive(1); err != io.EOF {
				t.Errorf("%s side %d: %v, want the end of the stream", name, side, err)
			}
			if err := leak.Close(); err != nil {
				t.Errorf("%s side %d: close: %v", name, side, err)
			}
		}
	}
}

func TestDeafen(t *testing.T) {
	Isolate(t)
	l, err := Listen(V4)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p, err := NewPair(l)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Server.Deafen(); err != nil {
		t.Fatal(err)
	}
	if err := p.Client.Send(10); err != nil {
		t.Fatal(err)
	}
	info, err := unix.GetsockoptTCPInfo(int(p.Client), unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		t.Fatal(err)
	}
	if info.Unacked == 0 {
		t.Error("a deaf peer acknowledged data")
	}
	if err := p.Server.Hear(); err != nil {
		t.Fatal(err)
	}
	if err := p.Server.Receive(10); err != nil { // by retransmission
		t.Error(err)
	}
}
