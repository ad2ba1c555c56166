package term

import (
	"strings"
	"testing"
	"time"
)

func TestFrame(t *testing.T) {
	at := time.Date(2026, 11, 22, 10, 52, 0, 0, time.UTC)
	text := "STATE\nA\nB\nC\n"
	const begin, end = "\x1b[H\x1b[2J\x1b[?7l10:52:00  3 sockets\n", "\n\x1b[?7h"
	tests := []struct {
		name   string
		screen Screen
		first  bool
		want   string
	}{
		{"a pipe", Screen{}, true, "2026-11-22T10:52:00Z\n" + text},
		{"later in a pipe", Screen{}, false, "\n2026-11-22T10:52:00Z\n" + text},
		{"a terminal", Screen{80, 24}, false, begin + "STATE\nA\nB\nC" + end},
		{"just high enough", Screen{80, 6}, false, begin + "STATE\nA\nB\nC" + end},
		{"too low", Screen{80, 5}, false, begin + "STATE\nA\n… and 2 more" + end},
		{"hardly there", Screen{80, 2}, false, begin + "… and 4 more" + end},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := string(test.screen.Frame(at, "3 sockets", []byte(text), test.first))
			if got != test.want {
				t.Errorf("frame %q, want %q", got, test.want)
			}
			if lines := strings.Count(got, "\n"); test.screen.Height > 2 && lines >= test.screen.Height {
				t.Errorf("%d lines scroll a screen of %d", lines, test.screen.Height)
			}
		})
	}
}
