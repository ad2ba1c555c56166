package main

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestShort(t *testing.T) {
	tests := map[time.Duration]string{
		0:                             "0s",
		9 * time.Millisecond:          "0s",
		19 * time.Millisecond:         "10ms",
		999 * time.Millisecond:        "990ms",
		time.Second:                   "1s",
		1509 * time.Millisecond:       "1.5s",
		1050 * time.Millisecond:       "1.05s",
		61999 * time.Millisecond:      "1m1s",
		time.Hour - 1:                 "59m59s",
		49*time.Hour + 59*time.Second: "49h0m",
	}
	for d, want := range tests {
		if got := short(d); got != want {
			t.Errorf("short(%v) = %q, want %q", d, got, want)
		}
	}
}

// TestShortIsTrue: people who know Go's durations read them.
func TestShortIsTrue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(0, int64(100*24*time.Hour)).Draw(t, "d"))
		want := d.Truncate(10 * time.Millisecond).String()
		switch {
		case d >= time.Hour:
			want = strings.TrimSuffix(d.Truncate(time.Minute).String(), "0s")
		case d >= time.Minute:
			want = d.Truncate(time.Second).String()
		}
		if got := short(d); got != want {
			t.Errorf("short(%v) = %q, want %q", d, got, want)
		}
	})
}
