package daemon

import (
	"errors"
	"strings"
	"testing"

	"github.com/sockdog/sockdog/internal/holders"
	"github.com/sockdog/sockdog/internal/sock"
)

func TestUnnamed(t *testing.T) {
	for _, test := range []struct {
		name   string
		access holders.Access
		err    error
		text   string // a part of it; empty: nothing is said
		cure   string
	}{
		{"a host", holders.Access{AllShown: true, Processes: 200}, nil, "", ""},
		{"other users' processes", holders.Access{AllShown: true, Processes: 200, Refused: 190, First: sock.Holder{PID: 1, Comm: "systemd"}}, nil, "190 of 200 processes cannot be read, the first is systemd[1]: ", "CAP_SYS_PTRACE"},
		{"a process that guards itself", holders.Access{AllShown: true, Privileged: true, Processes: 200, Refused: 1, First: sock.Holder{PID: 7, Comm: "vault"}}, nil, "1 of 200 processes cannot be read, the first is vault[7]: ", "confinement"},
		{"a name that is a trap", holders.Access{Processes: 2, Refused: 1, First: sock.Holder{PID: 7, Comm: "@all\n<x>"}}, nil, "is ?all??x?[7]", "CAP_SYS_PTRACE"},
		{"a sidecar", holders.Access{Contained: true, Processes: 1}, nil, "those outside of this PID namespace are not shown: ", "shareProcessNamespace: true"},
		{"a sidecar that sees its pod", holders.Access{Contained: true, Processes: 12}, nil, "", ""},
		{"a sidecar that sees its pod, and may not read it", holders.Access{Contained: true, Processes: 12, Refused: 11}, nil, "11 of 12", "CAP_SYS_PTRACE"},
		{"a sidecar whose /proc hides some of its pod", holders.Access{Contained: true, Hidden: true, Processes: 12}, nil, "other users' processes are hidden from sockdog: ", "hidepid"},
		{"hidepid", holders.Access{Processes: 1}, nil, "other users' processes are hidden from sockdog: ", "hidepid, or CAP_SYS_PTRACE (in a systemd unit: the drop-in holders.conf)"},
		{"no /proc", holders.Access{}, errors.New("no such directory"), "no such directory", "mount /proc"},
	} {
		t.Run(test.name, func(t *testing.T) {
			text, cure := unnamed(&test.access, test.err)
			if !strings.Contains(text, test.text) || !strings.Contains(cure, test.cure) || (text == "") != (test.text == "") {
				t.Errorf("says %q, and cures it by %q", text, cure)
			}
		})
	}
}
