package host

import (
	"os"
	"testing"
)

// That it also can where the file of the program has capabilities, .ci/pods/bundle shows.
func TestBeExpendable(t *testing.T) {
	BeExpendable()
	if text, err := os.ReadFile("/proc/self/oom_score_adj"); err != nil || string(text) != "1000\n" {
		t.Errorf("oom_score_adj is %q, %v", text, err)
	}
}
