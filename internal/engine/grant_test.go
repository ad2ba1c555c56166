package engine

import (
	"testing"
	"time"
)

// TestAGrantedPlaceIsKept: what a limit lets go on, and waits for its holders, is not
// overtaken by a younger one that waits for nothing.
func TestAGrantedPlaceIsKept(t *testing.T) {
	b := newBench(t)
	b.walkCost, b.reused = 900*time.Millisecond, map[uint32]bool{1: true} // whose holder only a walk finds
	b.add(1, time.Hour)
	b.add(2, 1500*time.Millisecond)
	b.rule(set(killing("r", matching(brief().Match[0]), limited(1, time.Minute))))
	b.until(3 * time.Minute)
	b.want("500ms r kill held 2", "900ms r kill done 1", "1m0.9s r kill done 2")
}
