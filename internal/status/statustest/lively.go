// Package statustest makes a Status in which everything occurs, for the tests of
// what shows one.
package statustest

import (
	_ "embed"
	"encoding/json"
	"math"
	"regexp"
	"time"

	"github.com/sockdog/sockdog/internal/status"
)

//go:embed lively.json
var lively string

// epoch is the instant at which lively.json was made, and instants are those in it.
var (
	epoch    = time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	instants = regexp.MustCompile(`[0-9-]{10}T[0-9:]{8}Z`)
)

// Lively is the status of a daemon that has been busy for the hour before now: a
// leak that is cured each few minutes, a flood that nears its threshold, a rule
// that was stopped, and some trouble. The same now gives the same status.
func Lively(now time.Time) *status.Status {
	text := instants.ReplaceAllStringFunc(lively, func(instant string) string {
		at, err := time.Parse(time.RFC3339, instant)
		if err != nil {
			panic(err)
		}
		return now.Add(at.Sub(epoch)).Format(time.RFC3339Nano)
	})
	var s status.Status
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		panic(err)
	}
	s.Sockets, s.History = socketsAt(now, now), history(now)
	return &s
}

// socketsAt is how many sockets there were at an instant of the hour before now.
func socketsAt(at, now time.Time) status.Sockets {
	m := now.Sub(at).Minutes()
	wave := func(period float64) float64 { return math.Sin(2 * math.Pi * m / period) }
	saw := func(period float64) float64 { return 1 - math.Mod(m, period)/period }
	return status.Sockets{
		"close-wait":  uint64(46 * saw(11)),
		"time-wait":   uint64(18000 + 9000*wave(25) + 114*wave(3)),
		"established": uint64(880 + 60*wave(40) + 25*wave(7)),
		"fin-wait-1":  uint64(3 + 3*wave(5)),
		"fin-wait-2":  uint64(12 + 8*wave(9)),
		"last-ack":    0,
		"closing":     0,
		"syn-sent":    uint64(max(0, 14*wave(31)-9)),
		"syn-recv":    0,
		"listening":   9,
		"closed":      0,
	}
}

// history is the hour before now. For three minutes of it nothing was read.
func history(now time.Time) *status.History {
	var r status.Recorder
	for at := now.Add(-time.Hour + 15*time.Second); !at.After(now); at = at.Add(15 * time.Second) {
		if ago := now.Sub(at); ago < 21*time.Minute || ago >= 24*time.Minute {
			r.Record(at, socketsAt(at, now))
		}
	}
	return r.History(now)
}
