package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// The capabilities that the daemon works with, as bits: one to destroy with, on a few
// threads, those to read with, one to enter other network namespaces with, which is
// in effect for microseconds, and one to signal processes of other users with.
const (
	toDestroy = 1 << unix.CAP_NET_ADMIN
	toRead    = 1<<unix.CAP_DAC_READ_SEARCH | 1<<unix.CAP_SYS_PTRACE
	toEnter   = 1 << unix.CAP_SYS_ADMIN
	toSignal  = 1 << unix.CAP_KILL
)

// mostDestroyers is how many threads of the daemon may destroy at most: those that
// open netlink sockets.
const mostDestroyers = 4

// mostEntering is how many may enter other network namespaces at one moment: those that
// read them, and the one that finds them.
const mostEntering = 5

// "capabilities PROGRAM [all|signal]" checks those of each thread of a program that was started
// with all of root's; with all, it may enter every network namespace, and with signal, its rules
// may signal processes.
func capabilities(ts *testscript.TestScript, neg bool, args []string) {
	kept, inEffect := uint64(toDestroy|toRead), uint64(toRead)
	switch {
	case neg, len(args) != 1 && (len(args) != 2 || args[1] != "all" && args[1] != "signal"):
		ts.Fatalf("usage: capabilities PROGRAM [all|signal]")
	case len(args) == 1:
	case args[1] == "all":
		kept |= toEnter
	case args[1] == "signal":
		kept |= toSignal
		inEffect |= toSignal
	}
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", started(ts, args[0]).Process.Pid))
	ts.Check(err)
	destroyers, others, entering := 0, 0, 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		got := make(map[string]uint64)
		for _, m := range regexp.MustCompile(`(?m)^Cap(\w+):\t(\w+)$`).FindAllStringSubmatch(string(text), -1) {
			got[m[1]], err = strconv.ParseUint(m[2], 16, 64)
			ts.Check(err)
		}
		want := map[string]uint64{"Bnd": kept, "Prm": kept, "Eff": inEffect, "Inh": 0, "Amb": 0}
		if got["Eff"]&toDestroy != 0 {
			destroyers++
			want["Eff"] |= toDestroy
		} else {
			others++
		}
		if kept&got["Eff"]&toEnter != 0 { // at this moment
			entering++
			want["Eff"] |= toEnter
		}
		for set, bits := range want {
			if got[set] != bits {
				ts.Fatalf("%s: Cap%s is %x, want %x", file, set, got[set], bits)
			}
		}
	}
	if entering > mostEntering {
		ts.Fatalf("%d threads may enter other network namespaces, want %d at most", entering, mostEntering)
	}
	if destroyers < 1 || destroyers > mostDestroyers || others == 0 {
		ts.Fatalf("%d of %d threads may destroy, want 1 to %d and some that may not", destroyers, destroyers+others, mostDestroyers)
	}
}
