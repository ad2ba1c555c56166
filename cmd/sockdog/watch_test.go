package main

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
		screen screen
		first  bool
		want   string
	}{
		{"a pipe", screen{}, true, "2026-11-22T10:52:00Z\n" + text},
		{"later in a pipe", screen{}, false, "\n2026-11-22T10:52:00Z\n" + text},
		{"a terminal", screen{80, 24}, false, begin + "STATE\nA\nB\nC" + end},
		{"just high enough", screen{80, 6}, false, begin + "STATE\nA\nB\nC" + end},
		{"too low", screen{80, 5}, false, begin + "STATE\nA\n… and 2 more" + end},
		{"hardly there", screen{80, 2}, false, begin + "… and 4 more" + end},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l := listing{crowd: crowd{size: 3}}
			got := string(l.frame(at, []byte(text), test.screen, test.first))
			if got != test.want {
				t.Errorf("frame %q, want %q", got, test.want)
			}
			if lines := strings.Count(got, "\n"); test.screen.height > 2 && lines >= test.screen.height {
				t.Errorf("%d lines scroll a screen of %d", lines, test.screen.height)
			}
		})
	}
}
