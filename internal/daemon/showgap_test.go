package daemon

import (
	"testing"
	"time"
)

// How things stand is shown again soon, whatever a busy machine made of the last time.
func TestShowGap(t *testing.T) {
	for took, want := range map[time.Duration]time.Duration{
		0: time.Second, time.Millisecond: time.Second, 10 * time.Millisecond: 2 * time.Second, time.Hour: 3 * time.Second,
	} {
		if got := showGap(took); got != want {
			t.Errorf("shown in %v: again after %v, want %v", took, got, want)
		}
	}
}
