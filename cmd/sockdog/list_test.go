package main

import (
	"strings"
	"testing"

	"github.com/sockdog/sockdog/internal/nstest"
)

// TestListMany lists more sockets than a page holds, so that some are formatted
// while the kernel still tells of others.
func TestListMany(t *testing.T) {
	nstest.Need(t)
	nstest.Isolate(t)
	const n = pageRows + 100
	leak, err := nstest.CloseWait(nstest.V4, nstest.ClientSide, n)
	if err != nil {
		t.Fatal(err)
	}
	defer leak.Close()
	stuck := make(map[string]bool)
	for _, s := range leak.Stuck {
		at, err := s.Local()
		if err != nil {
			t.Fatal(err)
		}
		stuck[at.String()] = true
	}
	for _, how := range [][]string{
		{"state", "close-wait"},
		{"state", "close-wait", "-o=wide"},
		{"state", "close-wait", "--sort=dev"},
		{"state", "close-wait", "--sort=user"},
		{"state", "close-wait", "--sort=peer"},
	} { // no subtests: the thread has the namespace
		cmd := listCommand()
		var out strings.Builder
		cmd.SetOut(&out)
		cmd.SetArgs(append([]string{"-H"}, how...))
		if err := cmd.Execute(); err != nil {
			t.Fatal(err)
		}
		listed := make(map[string]bool)
		for line := range strings.Lines(out.String()) {
			fields := strings.Fields(line)
			if len(fields) < 8 || !stuck[fields[3]] || fields[7] != "eof-unread" {
				t.Fatalf("list %v: line %q", how, line)
			}
			listed[fields[3]] = true
		}
		if lines := strings.Count(out.String(), "\n"); len(listed) != n || lines != n {
			t.Errorf("list %v: %d sockets in %d lines, want %d", how, len(listed), lines, n)
		}
	}
}
