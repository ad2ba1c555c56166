// Package systemd tests the unit file beside it.
package systemd

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

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
	const command = "\nExecStart=/usr/bin/sockdog run "
	if !strings.Contains(string(unit), command) {
		t.Fatalf("the unit has no line %q", command)
	}
	copied := filepath.Join(t.TempDir(), "sockdog.service")
	text := strings.Replace(string(unit), command, "\nExecStart="+self+" run ", 1)
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
