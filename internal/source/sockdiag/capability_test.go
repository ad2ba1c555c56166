package sockdiag

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// setNetAdmin sets CAP_NET_ADMIN of this thread, which the test must have locked.
func setNetAdmin(t *testing.T, permitted, effective bool) {
	t.Helper()
	self := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	check(t, unix.Capget(&self, &sets[0]))
	const bit = 1 << unix.CAP_NET_ADMIN
	sets[0].Permitted &^= bit
	sets[0].Effective &^= bit
	if permitted {
		sets[0].Permitted |= bit
	}
	if effective {
		sets[0].Effective |= bit
	}
	check(t, unix.Capset(&self, &sets[0]))
}

func TestRaiseNetAdmin(t *testing.T) {
	c := openKernel(t)
	closeWait(t, nstest.V4, nstest.ServerSide, 1)
	id := only(t, c, ssfilter.CloseWait).ID

	setNetAdmin(t, true, false)
	if err := destroy(t, c, id); !errors.Is(err, unix.EPERM) {
		t.Errorf("without the capability: %v, want %v", err, unix.EPERM)
	}
	if capabilities := must(c.Probe())(t); !errors.Is(capabilities.Destroy, unix.EPERM) || !errors.Is(capabilities.DestroyTimeWait, unix.EPERM) {
		t.Errorf("without the capability: %+v, want %v", capabilities, unix.EPERM)
	}
	if s := only(t, c, ssfilter.CloseWait); s.ID != id {
		t.Errorf("the socket changed: %+v", s)
	}

	check(t, RaiseNetAdmin())
	if capabilities := must(c.Probe())(t); capabilities.Destroy != nil {
		t.Errorf("raised: %+v, want to destroy", capabilities)
	}
	check(t, RaiseNetAdmin()) // once more does no harm
	check(t, destroy(t, c, id))

	setNetAdmin(t, false, false)
	if err := RaiseNetAdmin(); !errors.Is(err, ErrNotPermitted) {
		t.Errorf("not permitted: %v, want %v", err, ErrNotPermitted)
	}
}

// What the kernel shows to a privileged sender only, on older ones that a socket is
// an MPTCP subflow, it shows even if the Conn was opened without the capability.
func TestPrivilegeIsTheSenders(t *testing.T) {
	nstest.Isolate(t)
	setNetAdmin(t, true, false)
	c := must(Open(must(sock.Clock())(t), nil))(t)
	defer c.Close()
	listen(t, nstest.V4)
	for _, raised := range []bool{false, true} {
		if raised {
			check(t, RaiseNetAdmin())
		}
		marks := &markSpy{link: c.link}
		c.link = marks
		only(t, c, ssfilter.Listening)
		if marks.seen != raised {
			t.Errorf("capability raised: %v, INET_DIAG_MARK shown: %v", raised, marks.seen)
		}
		c.link = marks.link
	}
}

// markSpy sees whether the kernel sends INET_DIAG_MARK.
type markSpy struct {
	link
	seen bool
}

func (s *markSpy) recv(b []byte) (int, error) {
	n, err := s.link.recv(b)
	if m, _, err := nextMessage(b[:max(n, 0)]); err == nil && len(m.data) > sizeofReply {
		for rest := m.data[sizeofReply:]; len(rest) > 0; {
			var kind uint16
			if kind, _, rest, err = nextAttribute(rest); err != nil {
				break
			}
			s.seen = s.seen || kind == inetDiagMark
		}
	}
	return n, err
}

// CAP_NET_ADMIN counts in the user namespace that owns the network namespace, and
// in one below it, where it is in full effect too, it is worth nothing.
func TestNestedUserNamespace(t *testing.T) {
	const inside = "SOCKDIAG_TEST_NESTED"
	if os.Getenv(inside) != "" {
		c := must(Open(must(sock.Clock())(t), nil))(t)
		defer c.Close()
		check(t, RaiseNetAdmin())
		capabilities := must(c.Probe())(t)
		if want := (Capabilities{OneWalk: true, Destroy: unix.EPERM, DestroyTimeWait: unix.EPERM}); capabilities != want {
			t.Errorf("capabilities %+v, want %+v", capabilities, want)
		}
		return
	}
	nstest.Isolate(t)
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestNestedUserNamespace$", "-test.v")
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("in a nested user namespace: %v\n%s", err, out)
	}
}
