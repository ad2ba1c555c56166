// Package doctor finds out what this kernel and these privileges allow, on sockets of its
// own, and says how to get the rest.
package doctor

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/holders"
	"github.com/sockdog/sockdog/internal/host"
	"github.com/sockdog/sockdog/internal/netns"
	"github.com/sockdog/sockdog/internal/term"
	"github.com/sockdog/sockdog/rules"
)

// Finding is one thing that was tried out.
type Finding struct {
	What   string `json:"what"`
	OK     bool   `json:"ok"`
	Needed bool   `json:"needed"` // for the main job
	Text   string `json:"finding"`
	Cure   string `json:"cure,omitempty"`
}

// Print prints findings in lines of so many cells at most; 0 is no bound.
func Print(out io.Writer, all []Finding, cells int) error {
	rows := term.NewTable("", "", "")
	rows.Bare, rows.Wraps = true, true
	for _, x := range all {
		mark := "ok"
		switch {
		case !x.OK && x.Needed:
			mark = "FAIL"
		case !x.OK:
			mark = "warn"
		}
		rows.Row(mark, x.What, x.Text)
		if x.Cure != "" {
			label := "cure"
			if x.OK {
				label = "better"
			}
			rows.Row("", "", label+": "+x.Cure)
		}
	}
	return rows.Print(out, cells)
}

// Examine tries everything out.
func Examine() []Finding {
	h, err := host.Probe()
	if err != nil {
		return []Finding{{What: "socket table", Needed: true, Text: err.Error(), Cure: "a kernel with CONFIG_INET_DIAG and CONFIG_INET_TCP_DIAG (modprobe tcp_diag)"}}
	}
	all := []Finding{{What: "kernel", OK: true, Text: fmt.Sprintf("Linux %s, ages are known to within %s", h.Release, h.Precision)}}

	table := Finding{What: "socket table", OK: true, Needed: true, Text: "readable, both families in one walk"}
	if !h.Kernel.OneWalk {
		table.Text = "readable, one walk for each family: a scan costs twice as much"
	}
	kill := examineKill(h)
	timeWait := Finding{What: "kill in time-wait", OK: h.Kernel.DestroyTimeWait == nil, Text: "works"}
	if !timeWait.OK {
		timeWait.Text = h.WhyNotTimeWait()
		if h.Kernel.Destroy == nil {
			timeWait.Cure = "Linux 6.0 or later; nothing else needs it"
		}
	}
	orphans := Finding{What: "kill of orphans", OK: h.FreesOrphans(), Text: "works (Linux 6.11 or later)"}
	if !orphans.OK {
		orphans.Text, orphans.Cure = "left alone: this kernel may leak an orphan that is destroyed", "Linux 6.11 or later"
	}
	all = append(all, table, kill, examineDescriptors(h), timeWait, orphans, examineSignal(), examineHolders(), examinePods(), examineCookie(), examineTable())
	return append(append(all, examineEvents(h)...), examineNamespaces())
}

// examineKill says by which way sockets can be killed.
func examineKill(h *host.Host) Finding {
	x := Finding{What: "kill", OK: true, Needed: true, Text: "works"}
	switch via, err := h.Capabilities().Way(&rules.Action{Kind: rules.Kill}); {
	case err != nil:
		x.OK, x.Text, x.Cure = false, h.WhyNotKill(), h.Cure()
		if why := h.WhyNoPrivilege(); why != "" {
			x.Text += ": " + why
		}
	case via == rules.ViaHolder:
		x.Text, x.Cure = "works through the process that holds the socket: "+h.WhyNotKill(), h.Cure()
	}
	return x
}

// examineDescriptors says whether sockets can be acted on through who holds them.
func examineDescriptors(h *host.Host) Finding {
	x := Finding{What: "through the holder", OK: true, Text: "works: keepalive, shutdown, and kill without SOCK_DESTROY (pidfd_getfd)"}
	if h.Closed != nil {
		x.OK = false
		x.Text, x.Cure = h.WhyClosed()
	} else if few := host.Descriptors().Reach(); few != nil {
		x.OK, x.Text, x.Cure = false, few.Why, grantOr("holders.conf", few.Cure, unix.CAP_SYS_PTRACE)
	}
	return x
}

// examineSignal finds out whose processes can be signalled: rules with signal may want that.
func examineSignal() Finding {
	x := Finding{What: "signal", OK: true, Text: "possible to processes of every user (CAP_KILL)"}
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	switch {
	case err != nil:
		x.OK, x.Text, x.Cure = false, "not possible: pidfd_open(2): "+err.Error(), "Linux 5.3 or later; only rules with signal need it"
		return x
	case host.Lacks(unix.CAP_KILL):
		x.OK, x.Text, x.Cure = false, fmt.Sprintf("possible to processes of user %d only", os.Geteuid()), "CAP_KILL; only rules with signal need it"
	}
	unix.Close(fd)
	return x
}

// examineHolders finds out whose descriptors can be read.
func examineHolders() Finding {
	found, err := holders.Find(host.ProcRoot, nil)
	if err != nil {
		return Finding{What: "owners", Text: err.Error(), Cure: "mount /proc"}
	}
	return holdersExamined(&found.Access)
}

// holdersExamined says what of the holders stays unknown, and why.
func holdersExamined(a *holders.Access) Finding {
	if a.Contained && a.Refused == 1 && a.First.Comm == "sockdog" {
		// Beside a sockdog in its container: that can read its own.
		others := *a
		others.Refused, others.Processes = 0, a.Processes-1
		a = &others
	}
	x := Finding{What: "owners", OK: a.Complete(), Text: "every process of this host can be read"}
	switch {
	case a.Pod():
		x.OK, x.Text = true, "every process of this PID namespace can be read; those outside of it are not shown"
	case !x.OK:
		x.Text, x.Cure = a.Unnamed(term.Printable)
	}
	return x
}

// examinePods finds out whether pods have names.
func examinePods() Finding {
	found, err := holders.FindPods(host.ProcRoot)
	if err != nil {
		return Finding{What: "pod names", Text: err.Error(), Cure: "mount /proc"}
	}
	return podsExamined(found)
}

// podsExamined says of how many pods the name is known, and that no name is of other containers.
func podsExamined(p holders.Pods) Finding {
	x := Finding{What: "pod names", OK: true}
	switch {
	case p.Named+p.Unnamed == 0:
		x.Text = "no process is known to be of a pod"
	case p.Unnamed == 0:
		x.Text = fmt.Sprintf("known of all pods that are seen: %d", p.Named)
	default:
		x.OK, x.Text = false, fmt.Sprintf("of %d of %d pods the name is not known: a rule that names a pod leaves their sockets alone", p.Unnamed, p.Named+p.Unnamed)
		x.Cure = "mount the node's /var/log, read-only: the kubelet keeps logs there, whose names tell (docs/rules.md#units-containers-and-pods)"
	}
	if p.Bare > 0 {
		x.Text += fmt.Sprintf("; containers in no pod, as those of docker and podman (%d), are known by id alone: a rule leaves them alone that does not write 12 digits of it", p.Bare)
	}
	return x
}

// examineCookie finds out whether first-seen times can be kept on disk.
func examineCookie() Finding {
	if _, err := netns.Cookie(); err != nil {
		return Finding{What: "memory on disk", Text: "a restart forgets how long sockets with keepalives have been stuck: " + err.Error(), Cure: "Linux 5.14 or later"}
	}
	return Finding{What: "memory on disk", OK: true, Text: "possible, with --state-dir"}
}

// examineTable says what a scan walks through.
func examineTable() Finding {
	const own = "/proc/sys/net/ipv4/tcp_child_ehash_entries"
	x := Finding{What: "hash table", OK: true, Text: "a scan walks the table of the whole host"}
	if _, err := os.Stat(own); err == nil {
		x.Cure = "a namespace made while net.ipv4.tcp_child_ehash_entries is set, to 1024 for example, has a small table of its own: a scan there costs microseconds"
	}
	return x
}
