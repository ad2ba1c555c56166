// Package systemd tests the unit file beside it.
package systemd

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A daemon that crashes ends with 2, as Go has it: only the status of bad rules may
// keep systemd from starting it again.
func TestOnlyBadRulesStayDown(t *testing.T) {
	unit, err := os.ReadFile("sockdog.service")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, line := range strings.Split(string(unit), "\n") {
		if statuses, ok := strings.CutPrefix(line, "RestartPreventExitStatus="); ok {
			got = append(got, strings.Fields(statuses)...)
		}
	}
	if want := []string{"78"}; !slices.Equal(got, want) {
		t.Errorf("RestartPreventExitStatus: %q, want %q", got, want)
	}
}

// TestUnit has systemd read the unit. A relaxed option shows in the exposure that
// systemd-analyze security works out, so that is held as well.
func TestUnit(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil && os.Getenv("CI") != "true" {
		t.Skip("needs systemd-analyze: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	unit, err := os.ReadFile("sockdog.service")
	if err != nil {
		t.Fatal(err)
	}
	// verify asks that the program exists, which where this test runs it does not.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	const program = "=/usr/bin/sockdog "
	if !strings.Contains(string(unit), program) {
		t.Fatalf("the unit runs no %q", program)
	}
	copied := filepath.Join(t.TempDir(), "sockdog.service")
	text := strings.ReplaceAll(string(unit), program, "="+self+" ")
	if err := os.WriteFile(copied, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}

	for _, args := range [][]string{
		{"verify", "--man=no"},
		{"security", "--offline=true", "--threshold=25", "--no-pager"}, // tenths: 2.5 is "OK"
	} {
		out, err := exec.Command(analyze, append(args, copied)...).CombinedOutput()
		// verify exits with 0 on a key it does not know, having said so.
		if err != nil || args[0] == "verify" && len(out) > 0 {
			t.Errorf("systemd-analyze %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}
