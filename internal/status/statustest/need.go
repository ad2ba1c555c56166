package statustest

import (
	"os"
	"os/exec"
	"testing"
)

// Need finds a program that shows a status, and skips the test where it is
// missing. With CI=true it fails instead: there, a test that did not run is a
// defect.
func Need(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	switch {
	case err == nil:
	case os.Getenv("CI") == "true":
		t.Fatal("needs a program: ", err)
	default:
		t.Skip("needs a program: ", err)
	}
	return path
}
