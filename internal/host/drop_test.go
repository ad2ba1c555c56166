package host

import (
	"testing"

	"golang.org/x/sys/unix"
)

// What the daemon keeps follows from what it does, and from what it has.
func TestDuties(t *testing.T) {
	const all = 1<<41 - 1
	const toRead = 1<<unix.CAP_DAC_READ_SEARCH | 1<<unix.CAP_SYS_PTRACE
	for _, test := range []struct {
		name        string
		duties      Duties
		permitted   uint64
		acts, reads uint64
	}{
		{"root", Duties{}, all, 1 << unix.CAP_NET_ADMIN, toRead},
		{"every namespace", Duties{EntersNamespaces: true}, all, 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_SYS_ADMIN, toRead},
		{"an old kernel", Duties{CallsBPF: true}, all, 1 << unix.CAP_NET_ADMIN, toRead | 1<<unix.CAP_BPF},
		{"a container", Duties{CallsBPF: true}, 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_DAC_OVERRIDE, 1 << unix.CAP_NET_ADMIN, 1 << unix.CAP_DAC_OVERRIDE},
		{"rules may signal", Duties{Signals: true}, all, 1 << unix.CAP_NET_ADMIN, toRead | 1<<unix.CAP_KILL},
		{"nothing", Duties{true, true, true}, 0, 0, 0},
	} {
		if acts, reads := test.duties.keep(test.permitted); acts != test.acts || reads != test.reads {
			t.Errorf("%s: keeps %x to act with and %x to read with, want %x and %x", test.name, acts, reads, test.acts, test.reads)
		}
	}
}
