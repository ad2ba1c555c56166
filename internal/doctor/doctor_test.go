package doctor

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/holders"
	"github.com/sockdog/sockdog/internal/sock"
)

// On a terminal no line is broken by it.
func TestPrintFits(t *testing.T) {
	all := []Finding{
		{What: "socket table", OK: true, Text: "readable, both families in one walk"},
		{What: "kill", Needed: true, Text: "kill is not permitted: CAP_NET_ADMIN is missing", Cure: "run as root, or setcap cap_net_admin+p on the binary"},
	}
	const want = `
ok    socket table  readable, both families in one
                    walk
FAIL  kill          kill is not permitted:
                    CAP_NET_ADMIN is missing
                    cure: run as root, or setcap
                    cap_net_admin+p on the binary
`
	var b strings.Builder
	if err := Print(&b, all, 50); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, "\n"+b.String()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

func TestPodsExamined(t *testing.T) {
	for _, test := range []struct {
		name    string
		found   holders.Pods
		ok      bool
		finding string
	}{
		{"no pods", holders.Pods{}, true, "no process is known to be of a pod"},
		{"containers in none", holders.Pods{Bare: 2}, true, "no process is known to be of a pod; containers in no pod, as those of docker and podman (2), are known by id alone: a rule leaves them alone that does not write 12 digits of it"},
		{"all named", holders.Pods{Named: 3}, true, "known of all pods that are seen: 3"},
		{"none named", holders.Pods{Unnamed: 2}, false, "of 2 of 2 pods the name is not known: a rule that names a pod leaves their sockets alone"},
		{"some named", holders.Pods{Named: 3, Unnamed: 1}, false, "of 1 of 4 pods the name is not known: a rule that names a pod leaves their sockets alone"},
	} {
		t.Run(test.name, func(t *testing.T) {
			x := podsExamined(test.found)
			if x.OK != test.ok || x.Text != test.finding || x.OK != (x.Cure == "") || x.Needed {
				t.Errorf("%+v", x)
			}
		})
	}
}

func TestHoldersExamined(t *testing.T) {
	refusing := holders.Access{AllShown: true, Processes: 20, Refused: 9, First: sock.Holder{PID: 7, Comm: "\x1b[2J"}}
	change := func(c func(a *holders.Access)) holders.Access {
		a := refusing
		c(&a)
		return a
	}
	for _, test := range []struct {
		name          string
		a             holders.Access
		finding, cure string
	}{
		{"none resists", holders.Access{AllShown: true, Processes: 20}, "every process of this host can be read", ""},
		{
			"some resist", refusing, "9 of 20 processes cannot be read, the first is �[2J[7]: who holds their sockets is not known, and those of their containers and services may have one more holder",
			"CAP_DAC_READ_SEARCH and CAP_SYS_PTRACE, for the processes of other users and those that have more capabilities (in a systemd unit: the drop-in holders.conf)",
		},
		{
			"some resist whatever one may", change(func(a *holders.Access) { a.Privileged = true }),
			"9 of 20 processes cannot be read, the first is �[2J[7]: who holds their sockets is not known, and those of their containers and services may have one more holder",
			"run sockdog outside of the user namespace, or of the confinement (AppArmor, SELinux), that keeps its capabilities from reaching it",
		},
		{
			"a container", holders.Access{Contained: true}, "those outside of this PID namespace are not shown: who holds their sockets is not known",
			"in a pod shareProcessNamespace: true shows those of its other containers, and hostPID: true those of the host; in docker or podman --pid=container:NAME and --pid=host do, with the --user of NAME",
		},
		{
			"in the container of a sockdog", holders.Access{Contained: true, Processes: 2, Refused: 1, First: sock.Holder{PID: 8, Comm: "sockdog"}},
			"those outside of this PID namespace are not shown: who holds their sockets is not known",
			"in a pod shareProcessNamespace: true shows those of its other containers, and hostPID: true those of the host; in docker or podman --pid=container:NAME and --pid=host do, with the --user of NAME",
		},
		{"a container that sees its pod", holders.Access{Contained: true, Processes: 12}, "every process of this PID namespace can be read; those outside of it are not shown", ""},
		{
			"a container whose /proc hides some", holders.Access{Contained: true, Hidden: true, Processes: 12},
			"other users' processes are hidden from sockdog: who holds their sockets is not known", "mount /proc without hidepid, or CAP_SYS_PTRACE (in a systemd unit: the drop-in holders.conf)",
		},
		{
			"hidden, and some resist", change(func(a *holders.Access) { a.AllShown = false }),
			"9 of 20 processes cannot be read, the first is �[2J[7], and other users' processes are hidden from sockdog: who holds their sockets is not known, and those of their containers and services may have one more holder",
			"CAP_DAC_READ_SEARCH and CAP_SYS_PTRACE, for the processes of other users and those that have more capabilities (in a systemd unit: the drop-in holders.conf); mount /proc without hidepid, or CAP_SYS_PTRACE (in a systemd unit: the drop-in holders.conf)",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			x := holdersExamined(&test.a)
			if x.OK != (test.cure == "") || x.Text != test.finding || x.Cure != test.cure {
				t.Errorf("%+v", x)
			}
		})
	}
}
