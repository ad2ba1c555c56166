package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
)

// ownLogs hides the kubelet's logs that the real host may have.
var ownLogs = sync.OnceValue(func() error { return unix.Mount("none", "/var/log", "tmpfs", 0, "mode=755") })

// newPod is newPlace in the container app of a pod, as a kubelet without systemd makes it.
func newPod(t *testing.T, number int, namespace, name string) *place {
	t.Helper()
	uid, id := fmt.Sprintf("05b3ee07-a2bd-47e7-9599-%012x", number), strings.Repeat(fmt.Sprintf("%08x", number), 8)
	check(t, ownLogs())
	check(t, os.MkdirAll(filepath.Join("/var/log/pods", namespace+"_"+name+"_"+uid), 0o755))
	check(t, os.MkdirAll("/var/log/containers", 0o755))
	check(t, os.Symlink("/nowhere", fmt.Sprintf("/var/log/containers/%s_%s_app-%s.log", name, namespace, id)))

	at, err := nstest.OwnCgroup()
	nstest.SkipWithout(t, "cgroup2", err)
	for _, below := range []string{fmt.Sprintf("sockdog-e2e-%d", number), "kubepods", "pod" + uid, id} {
		at, err = at.New(below)
		nstest.SkipWithout(t, "cgroups of its own", err)
		made := at
		t.Cleanup(func() { check(t, made.Remove()) })
	}
	dir := must(os.Open(string(at)))(t)
	defer dir.Close()
	return newPlace(t, func(c *exec.Cmd) { c.SysProcAttr.UseCgroupFD, c.SysProcAttr.CgroupFD = true, int(dir.Fd()) })
}

// On a node, a rule that names the pods of one namespace heals these, and leaves those of the others
// and what is in no pod. Every pod that leaks is alerted of by its name.
func TestPods(t *testing.T) {
	for i, source := range []string{"auto", "sock_diag"} {
		t.Run(source, func(t *testing.T) {
			need(t)
			api, dns := newPod(t, 2*i+1, "payments", fmt.Sprintf("api-%d", i)), newPod(t, 2*i+2, "kube-system", fmt.Sprintf("dns-%d", i))
			bare := newPlace(t)
			var inbox inbox
			receiver := inbox.open(t)
			w := watch(t, fmt.Sprintf(`
settings: {namespaces: all}
receivers: {test: {webhook: {url: %q}}}
rules:
  - {name: heals, match: {state: close-wait, sport: %d, in_state_for: %v, pod: payments/*}, then: [{kill: {canary: off}}]}
  - {name: tells, match: {state: close-wait, sport: %[2]d}, group_by: [pod], when: count > 0, for: 1s, then: [alert]}
`, receiver, port, bound), by("--source", source), func(c *exec.Cmd) { c.SysProcAttr = &syscall.SysProcAttr{} }) // where the receiver is
			others := map[*place]report{dns: dns.do("plain"), bare: bare.do("plain")}
			stuck := api.do("plain")
			if late := api.dies(stuck, bound); late > tooLateSockDiag {
				t.Errorf("killed %v late", late)
			}
			told := w.await("record", func(l line) bool { return l.Cookie == stuck.Stuck && l.Result == "done" })
			if told.Pod != fmt.Sprintf("payments/api-%d", i) || told.Container != "app" || told.Rule != "heals" {
				t.Errorf("the record of the kill: %+v", told)
			}
			named := func(pod string) bool {
				for _, a := range inbox.all() {
					if a.Labels["alertname"] == "tells" && a.Labels["pod"] == pod {
						return true
					}
				}
				return false
			}
			until(t, "alert about a pod", func() bool { return named(fmt.Sprintf("kube-system/dns-%d", i)) })
			type socket struct{ Pod, Container string }
			listed := tells[socket](t, "list", "--namespaces", "--pod", "kube-system/*", "-o", "json", "--fields", "pod,container", "--daemon", "off", "state", "close-wait")
			if diff := cmp.Diff([]socket{{fmt.Sprintf("kube-system/dns-%d", i), "app"}}, listed); diff != "" {
				t.Errorf("listed by pod (-want +got):\n%s", diff)
			}
			w.stop()
			for p, s := range others {
				if p.fine(); p.died(s) != 0 {
					t.Errorf("a socket was killed that is of no pod of payments: %+v", w.find(func(l line) bool { return l.Cookie == s.Stuck }))
				}
			}
		})
	}
}
