package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/holders"
	"github.com/sockdog/sockdog/internal/sock"
)

// On a terminal no line is broken by it.
func TestExaminedFits(t *testing.T) {
	all := []examined{
		{What: "socket table", OK: true, Finding: "readable, both families in one walk"},
		{What: "kill", Needed: true, Finding: "kill is not permitted: CAP_NET_ADMIN is missing", Cure: "run as root, or setcap cap_net_admin+p on the binary"},
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
	if err := printExamined(&b, all, 50); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, "\n"+b.String()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

// What keeps the capability away decides what to do: setcap is of no use under
// no_new_privs, and root of none outside of the bounding set.
func TestMissingPrivilege(t *testing.T) {
	for _, test := range []struct {
		name      string
		p         privileges
		why, cure string
		notCure   string
	}{
		{"nobody gave it", privileges{}, "file has no capability", "setcap", ""},
		{"no_new_privs, and none on the file", privileges{noNewPrivs: true}, "no_new_privs", "AmbientCapabilities", "setcap"},
		{"no_new_privs, and one on the file", privileges{noNewPrivs: true, file: true}, "file has the capability, and no_new_privs", "AmbientCapabilities", "setcap"},
		{"nosuid, and one on the file", privileges{nosuid: true, file: true}, "mounted nosuid", "another file system", "setcap"},
		{"one on the file, to no effect", privileges{file: true}, "not granted all the same", "run as root", "setcap"},
		{"outside of the bounding set", privileges{bounded: true, file: true, noNewPrivs: true}, "bounding set", "CapabilityBoundingSet", "setcap"},
		{"root, outside of the bounding set", privileges{bounded: true, root: true}, "bounding set", "NET_ADMIN in the container", "run as root"},
		{"root without it", privileges{root: true, noNewPrivs: true}, "root was started without it", "NET_ADMIN in the container", "run as root"},
	} {
		t.Run(test.name, func(t *testing.T) {
			why, cure := test.p.missing()
			if !strings.Contains(why, test.why) || !strings.Contains(cure, test.cure) || test.notCure != "" && strings.Contains(cure, test.notCure) {
				t.Errorf("why %q, cure %q", why, cure)
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
			"some resist", refusing, "9 of 20 processes cannot be read, the first is �[2J[7]: the sockets that those hold have no known holder",
			"CAP_DAC_READ_SEARCH and CAP_SYS_PTRACE for other users' processes",
		},
		{
			"some resist whatever one may", change(func(a *holders.Access) { a.Privileged = true }),
			"9 of 20 processes cannot be read, the first is �[2J[7]: the sockets that those hold have no known holder",
			"the capabilities are there and do not reach it: a security module (AppArmor, SELinux) or a user namespace protects it",
		},
		{
			"a container", holders.Access{Contained: true}, "those outside of this PID namespace are not shown: the sockets that those hold have no known holder",
			"shareProcessNamespace: true for those of the pod's other containers, hostPID: true for those of the host",
		},
		{
			"hidden, and some resist", change(func(a *holders.Access) { a.AllShown = false }),
			"9 of 20 processes cannot be read, the first is �[2J[7], and some are not shown: the sockets that those hold have no known holder",
			"CAP_DAC_READ_SEARCH and CAP_SYS_PTRACE for other users' processes; mount /proc without hidepid, or CAP_SYS_PTRACE",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			x := holdersExamined(&test.a)
			if x.OK != (test.cure == "") || x.Finding != test.finding || x.Cure != test.cure {
				t.Errorf("%+v", x)
			}
		})
	}
}
