package seen

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sockdog/sockdog/internal/sock"
)

var someStops = []sock.RuleStop{
	{Rule: "a", Sum: "1f", Reason: "holder_spins", PID: 7, Comm: "java", Since: now - sock.Instant(time.Hour)},
	{Rule: "b", Sum: "2f", Reason: "probe_failed", Since: now},
}

// The clock of a test may be set a little meanwhile.
var clockMoves = cmpopts.EquateApproxTime(time.Second)

// TestStops: which rules have stopped themselves is loaded as it was kept last, also in
// another boot.
func TestStops(t *testing.T) {
	wall := func(all []sock.RuleStop, s *Store) (since []time.Time) {
		for i := range all {
			since = append(since, s.zero.Add(time.Duration(all[i].Since)))
		}
		return since
	}
	ignoringSince := cmpopts.IgnoreFields(sock.RuleStop{}, "Since")
	for _, test := range []struct {
		name string
		do   func(t *testing.T, s *Store)
		want Loaded
	}{
		{"kept", func(*testing.T, *Store) {}, Loaded{Stops: someStops}},
		{"replaced", func(t *testing.T, s *Store) { must(t, s.KeepStops(someStops[1:])) }, Loaded{Stops: someStops[1:]}},
		{"none any more", func(t *testing.T, s *Store) { must(t, s.KeepStops(nil)) }, Loaded{}},
		{"removed", func(t *testing.T, s *Store) { must(t, os.Remove(filepath.Join(s.dir.Path(), stopsName))) }, Loaded{}},
		{"torn", func(t *testing.T, s *Store) { must(t, os.Truncate(filepath.Join(s.dir.Path(), stopsName), 50)) }, Loaded{Damaged: 1}},
		{"of another version", func(t *testing.T, s *Store) {
			must(t, os.WriteFile(filepath.Join(s.dir.Path(), stopsName), []byte(`{"version": 2}`), 0o600))
		}, Loaded{Damaged: 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := stateDir(t)
			s, _ := open(t, dir, now)
			must(t, s.KeepStops(someStops))
			test.do(t, s)
			must(t, s.Close())
			rebooted := origin
			rebooted.BootID = "another" + origin.BootID[7:]
			later, loaded, err := Open(dir, rebooted, 5)
			must(t, err)
			defer later.Close()
			if diff := cmp.Diff(test.want, loaded, ignoringSince); diff != "" {
				t.Errorf("loaded (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(wall(test.want.Stops, s), wall(loaded.Stops, later), clockMoves); diff != "" {
				t.Errorf("stopped at (-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzParseStops(f *testing.F) {
	s := newStore(stateDir(f), origin, now)
	f.Add([]byte(`{"version":1,"rules":[{"rule":"a","sum":"1f","reason":"holder_spins","pid":7,"since":"2026-01-02T03:04:05Z"}]}`))
	f.Add([]byte(`{"version":1`))
	f.Fuzz(func(t *testing.T, text []byte) {
		stops, err := s.parseStops(text)
		if err != nil && stops != nil {
			t.Fatalf("damaged, and %d rules", len(stops))
		}
		if err == nil && !json.Valid(text) {
			t.Error("taken, and is no JSON")
		}
	})
}
