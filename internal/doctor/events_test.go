package doctor

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/host"
	"github.com/sockdog/sockdog/internal/source/events"
)

// unprivileged has the test binary examine what an ordinary user has of events.
const unprivileged = "SOCKDOG_DOCTOR_TEST"

func TestMain(m *testing.M) {
	events.BecomeLoader()
	if os.Getenv(unprivileged) != "" {
		for _, x := range examineEvents(&host.Host{}) {
			os.Stdout.WriteString(x.What + "\n" + x.Text + "\n" + x.Cure + "\n")
		}
		return
	}
	os.Exit(m.Run())
}

// Who lacks the capabilities is told why in the kernel's words, and in which line to
// write them.
func TestEventsWithoutCapabilities(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be somebody else")
	}
	if _, err := events.CgroupRoot(); err != nil {
		t.Skip(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), unprivileged+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	got, err := cmd.Output()
	if err != nil {
		t.Skip("the test binary cannot be run by another user: ", err)
	}
	const want = `events
ages are what sock_diag tells: call bpf(2): operation not permitted (it lacks CAP_BPF and CAP_NET_ADMIN)
in a systemd unit the drop-in events.conf (install -Dm644 -t /etc/systemd/system/sockdog.service.d /usr/share/doc/sockdog/examples/systemd/events.conf, then systemctl daemon-reload and systemctl restart sockdog); in a pod securityContext: {runAsUser: 0, capabilities: {add: [BPF, NET_ADMIN]}} and hostPID: true; in a container --user=0:0 --pid=host --cap-add=BPF --cap-add=NET_ADMIN; by hand root, or setcap cap_bpf,cap_net_admin+p on the binary; a container takes the host's /sys/fs/cgroup, too (docs/events.md)
`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
}

func TestEventsExamined(t *testing.T) {
	noBTF := errors.New("load the iterator: the kernel tells no BTF")
	for _, test := range []struct {
		name string
		x    Finding
		ok   bool
		text string // beginning
	}{
		{"flagged", olderExamined(&host.Host{Release: "6.12.3-1"}, nil), true, "can be had"},
		{"an older kernel", olderExamined(&host.Host{Release: "6.1.0"}, nil), false, "scans go on for connections that are older than sockdog: this kernel"},
		{"no iterator", olderExamined(&host.Host{Release: "6.12.3-1"}, noBTF), false, "scans go on for connections that are older than sockdog: load the iterator"},
		{"owners", ownersExamined(nil), true, "can be had"},
		{"no owners", ownersExamined(noBTF), false, "owners are found by a walk through /proc: load the iterator"},
	} {
		if test.x.OK != test.ok || test.x.Needed || !strings.HasPrefix(test.x.Text, test.text) || (test.x.Cure == "") != test.ok {
			t.Errorf("%s: %+v", test.name, test.x)
		}
	}
	for _, dropIn := range []string{eventsDropIn, namespacesDropIn} {
		if _, err := os.Stat("../../examples/systemd/" + dropIn); err != nil {
			t.Error(err)
		}
	}
	if !host.Lacks(63) || host.CapabilityName(unix.CAP_BPF) != "BPF" {
		t.Error("a capability that there is not is there, or one has no name")
	}
}
