package daemon

import (
	"testing"
	"time"
)

// Whoever asks whether the loop turns calls it hanging after ten seconds (package web): it is shown
// well within them, however long that takes.
func TestShownWithSignsOfLife(t *testing.T) {
	for _, took := range []time.Duration{0, time.Millisecond, 25 * time.Millisecond, time.Hour} {
		// Somebody had it shown right before a sign of life, and again none may be shown at it.
		if gap := showGap(took); gap < showAtMost || gap+aliveEvery > 8*time.Second {
			t.Errorf("shown in %v: again after %v, or up to %v later", took, gap, aliveEvery)
		}
	}
}
