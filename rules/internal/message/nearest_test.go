package message_test

import (
	"strings"
	"testing"

	"github.com/sockdog/sockdog/rules/internal/message"
)

func TestNearest(t *testing.T) {
	names := []string{"state", "sport", "dport", "src", "dst", "in_state_for", "idle_for", "verdict"}
	tests := map[string]string{
		"dprot": "dport", "DPORT": "dport", "d-port": "dport", "state_for": "in_state_for", "in_state": "in_state_for", "instatefor": "in_state_for",
		"stat": "state", "srcs": "src", "verdicts": "verdict", "x": "", "colour": "", "": "", strings.Repeat("state", 100): "",
		"port": "sport dport",
	}
	for written, want := range tests {
		if got := strings.Join(message.Nearest(written, names), " "); got != want {
			t.Errorf("nearest(%q) = %q, want %q", written, got, want)
		}
	}
}
