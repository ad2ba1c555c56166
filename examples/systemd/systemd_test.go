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

// prepare returns systemd-analyze, and a copy of the unit that it accepts.
func prepare(t *testing.T) (analyze, copied string) {
	t.Helper()
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
	copied = filepath.Join(t.TempDir(), "sockdog.service")
	text := strings.ReplaceAll(string(unit), program, "="+self+" ")
	if err := os.WriteFile(copied, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return analyze, copied
}

// TestUnit has systemd read the unit. A relaxed option shows in the exposure that
// systemd-analyze security works out, so that is held as well.
func TestUnit(t *testing.T) {
	analyze, copied := prepare(t)
	for _, args := range [][]string{
		{"verify", "--man=no"},
		{"security", "--offline=true", "--threshold=15", "--no-pager"}, // tenths
	} {
		out, err := exec.Command(analyze, append(args, copied)...).CombinedOutput()
		// verify exits with 0 on a key it does not know, having said so.
		if err != nil || args[0] == "verify" && len(out) > 0 {
			t.Errorf("systemd-analyze %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// TestDropIns has systemd read the unit with each of the files that add to it, and all that the
// unit says of them is true.
func TestDropIns(t *testing.T) {
	unit, err := os.ReadFile("sockdog.service")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("*.conf")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(file, func(t *testing.T) {
			if !strings.Contains(string(unit), "\n#\t"+file+" ") {
				t.Errorf("the unit does not name it")
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			analyze, copied := prepare(t)
			dir := copied + ".d"
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			text = []byte(strings.ReplaceAll(string(text), "=/usr/bin/sockdog ", "="+self+" "))
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, file), text, 0o644); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command(analyze, "verify", "--man=no", copied).CombinedOutput()
			if file == "notify-reload.conf" { // this systemd may be older
				out = []byte(strings.ReplaceAll(string(out), dir+"/"+file+":3: Failed to parse service type, ignoring: notify-reload\n", ""))
			}
			if err != nil || len(out) > 0 {
				t.Errorf("systemd-analyze verify: %v\n%s", err, out)
			}
		})
	}
}
