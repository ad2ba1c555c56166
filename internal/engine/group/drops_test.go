package group

import (
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
)

// TestDrops counts what came within the last minute, and never more.
func TestDrops(t *testing.T) {
	const start = sock.Instant(1000 * time.Second)
	type sample struct {
		after time.Duration
		ever  uint64
		want  float64
	}
	for _, test := range []struct {
		name    string
		samples []sample
	}{
		{"what was dropped before is not known", []sample{{0, 1000, 0}, {5 * time.Second, 1000, 0}}},
		{"at an even pace", []sample{{0, 0, 0}, {5 * time.Second, 10, 10}, {30 * time.Second, 60, 60}, {60 * time.Second, 120, 120}, {64 * time.Second, 120, 120}, {65 * time.Second, 120, 110}}},
		{"a burst passes", []sample{{0, 0, 0}, {time.Second, 50, 50}, {55 * time.Second, 50, 50}, {60 * time.Second, 50, 0}}},
		{"nobody watched for long", []sample{{0, 0, 0}, {4 * time.Minute, 400, 100}}},
		{"counters that begin anew", []sample{{0, 100, 0}, {5 * time.Second, 3, 0}, {10 * time.Second, 5, 2}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var d Drops
			for _, s := range test.samples {
				d.Take(map[uint32]uint64{7: s.ever}, start.Add(s.after))
				if got := d.Of(7); got != s.want || d.Sum() != s.want {
					t.Errorf("after %v: %v, and %v in all, want %v", s.after, got, d.Sum(), s.want)
				}
			}
		})
	}
	var d Drops
	d.Take(map[uint32]uint64{7: 0, 8: 0}, start)
	d.Take(map[uint32]uint64{7: 3, 8: 4}, start.Add(time.Second))
	if d.Of(7) != 3 || d.Of(8) != 4 || d.Of(9) != 0 || d.Sum() != 7 {
		t.Errorf("%v, %v and %v in namespaces, %v in all", d.Of(7), d.Of(8), d.Of(9), d.Sum())
	}
	d.Take(map[uint32]uint64{8: 4}, start.Add(2*time.Second))
	if d.Of(7) != 0 || d.Sum() != 4 {
		t.Errorf("%v of a namespace that is gone, %v in all", d.Of(7), d.Sum())
	}
}
