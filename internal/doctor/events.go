package doctor

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/host"
	"github.com/sockdog/sockdog/internal/netns"
	"github.com/sockdog/sockdog/internal/source/events"
)

// examineEvents loads the programs that tell of events, attaches them for a moment, and
// says what each of them lacks.
func examineEvents(h *host.Host) []Finding {
	const allows = ", which allows bpf(2), too; else Linux 5.10 or later, with CAP_BPF and CAP_NET_ADMIN in the host's user namespace, and its cgroup v2"
	table := Finding{What: "events", Text: "exact ages of stuck sockets can be had"}
	if _, unfit := host.TablePlaces(); unfit != nil {
		table.Text, table.Cure = "ages are what sock_diag tells: "+unfit.Error(), "raise the memory limit of the container or unit"
		return []Finding{table}
	}
	programs, err := attachForAMoment()
	if err != nil {
		table.Text = "ages are what sock_diag tells: " + err.Error()
		table.Cure = grantOr(eventsDropIn, inUnit(eventsDropIn)+allows, unix.CAP_BPF, unix.CAP_NET_ADMIN) + "; a container takes the host's /sys/fs/cgroup, too (docs/events.md)"
		return []Finding{table}
	}
	defer programs.Close()
	table.OK = true
	return []Finding{table, olderExamined(h, programs.WhyNoFlag()), ownersExamined(programs.WhyNoOwners())}
}

// attachForAMoment tries what the daemon does, with a small table.
func attachForAMoment() (*events.Programs, error) {
	root, err := events.CgroupRoot()
	if err != nil {
		return nil, err
	}
	programs, err := events.Load(64)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(programs.Attach(root), programs.Detach()); err != nil {
		programs.Close()
		return nil, err
	}
	return programs, nil
}

// olderExamined says whether events tell of connections that are older than sockdog. To
// flag them is not tried: it would change the sockets of others.
func olderExamined(h *host.Host, err error) Finding {
	x := Finding{What: "events of older connections", OK: err == nil && h.AtLeast(6, 12), Text: "can be had (Linux 6.12 or later)"}
	switch {
	case err != nil:
		x.Text = "scans go on for connections that are older than sockdog: " + err.Error()
		x.Cure = grantOr(eventsDropIn, "a kernel of Linux 6.12 or later with CONFIG_DEBUG_INFO_BTF=y", unix.CAP_BPF, unix.CAP_NET_ADMIN, unix.CAP_PERFMON)
	case !x.OK:
		x.Text, x.Cure = "scans go on for connections that are older than sockdog: this kernel does not flag them", "Linux 6.12 or later"
	}
	return x
}

// ownersExamined says whether the kernel tells who holds sockets in one pass.
func ownersExamined(err error) Finding {
	x := Finding{What: "owners in one pass", OK: err == nil, Text: "can be had: by it sockdog run knows every holder, whoever may be read in /proc"}
	if err != nil {
		x.Text = "owners are found by a walk through /proc: " + err.Error()
		x.Cure = grantOr(eventsDropIn, "Linux 6.1 or later with CONFIG_DEBUG_INFO_BTF=y, in the host's PID namespace (hostPID: true)", unix.CAP_BPF, unix.CAP_NET_ADMIN, unix.CAP_PERFMON)
	}
	return x
}

// examineNamespaces finds out whether namespaces: all would watch all of them.
func examineNamespaces() Finding {
	x := Finding{What: "network namespaces"}
	own, err := netns.Self()
	if err == nil {
		defer own.Close()
		err = x.find(own)
	}
	if err != nil {
		x.Text = err.Error()
	}
	if !x.OK {
		x.Cure = grantOr(namespacesDropIn, inUnit(namespacesDropIn)+", which lifts RestrictNamespaces= and ProtectProc=, too; else run sockdog outside of the user namespace, or of the confinement (AppArmor, SELinux), that keeps its capabilities from reaching all", unix.CAP_SYS_ADMIN, unix.CAP_SYS_PTRACE)
	}
	return x
}

// find finds the others, and gives them up again.
func (x *Finding) find(own *netns.Namespace) error {
	finder, err := netns.NewFinder(host.ProcRoot, own)
	if err != nil {
		return err
	}
	defer finder.Close()
	found, err := finder.Find()
	for _, n := range found.Appeared {
		n.Close()
	}
	left := found.LeftOut()
	if err == nil && left != nil && !found.Few() {
		err = left
	}
	if err != nil {
		return fmt.Errorf("namespaces: all would watch %d others, and not all: %s", len(found.Appeared), strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	x.OK, x.Text = true, fmt.Sprintf("namespaces: all would watch %d others", len(found.Appeared))
	if left != nil { // of so few that they are most likely in one of those
		x.Text += "; " + left.Error()
	}
	return nil
}

// Drop-ins of the systemd unit, which give it what events take, and what namespaces: all takes.
const (
	eventsDropIn     = "events.conf"
	namespacesDropIn = "namespaces.conf"
)

// inUnit says how a drop-in comes to the unit, from where packages have it.
func inUnit(dropIn string) string {
	return fmt.Sprintf("in a systemd unit the drop-in %s (install -Dm644 -t /etc/systemd/system/sockdog.service.d /usr/share/doc/sockdog/examples/systemd/%[1]s, then systemctl daemon-reload and systemctl restart sockdog)", dropIn)
}

// grantOr says how to get capabilities, of which this process lacks some; else it is cure
// that is needed. For the systemd unit it is a drop-in: the unit forbids more than to have the
// capabilities, and the drop-in allows all that they are for.
func grantOr(dropIn, cure string, capabilities ...int) string {
	if !host.Lacks(capabilities...) {
		return cure
	}
	var plain, caps []string
	for _, c := range capabilities {
		name := host.CapabilityName(c)
		plain, caps = append(plain, name), append(caps, "CAP_"+name)
	}
	return fmt.Sprintf("%s; in a pod securityContext: {runAsUser: 0, capabilities: {add: [%s]}} and hostPID: true; in a container --user=0:0 --pid=host --cap-add=%s; by hand root, or setcap %s+p on the binary",
		inUnit(dropIn), strings.Join(plain, ", "), strings.Join(plain, " --cap-add="), strings.ToLower(strings.Join(caps, ",")))
}
