package seen

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/sock"
)

var someGroups = []sock.Group{
	{
		Key:        "\x01" + sock.GroupKey(make([]byte, 46)) + "\x02",
		GroupFacts: sock.GroupFacts{Rule: 1, Holding: 3, Firing: 4, Ended: 5, Known: 6, Fresh: 7, Acted: 8, ActsFrom: 9, ActsDone: 3},
	},
	{GroupFacts: sock.GroupFacts{Rule: ^uint64(0), Holding: 7, Known: now}},
}

// TestGroups: what was kept last is loaded, as a whole or not at all.
func TestGroups(t *testing.T) {
	edit := func(change func(b []byte) []byte) func(*testing.T, *Store) {
		return func(t *testing.T, s *Store) {
			path := filepath.Join(s.dir.Path(), groupsName)
			b, err := os.ReadFile(path)
			must(t, err)
			must(t, os.WriteFile(path, change(b), 0o600))
		}
	}
	for _, test := range []struct {
		name string
		do   func(t *testing.T, s *Store)
		want Loaded
	}{
		{"kept", func(t *testing.T, s *Store) {}, Loaded{Groups: someGroups}},
		{"replaced", func(t *testing.T, s *Store) { must(t, s.Keep(someGroups[1:])) }, Loaded{Groups: someGroups[1:]}},
		{"none any more", func(t *testing.T, s *Store) { must(t, s.Keep(nil)) }, Loaded{}},
		{"removed", func(t *testing.T, s *Store) { must(t, os.Remove(filepath.Join(s.dir.Path(), groupsName))) }, Loaded{}},
		{"torn", edit(func(b []byte) []byte { return b[:len(b)-50] }), Loaded{Damaged: 1}},
		{"empty", edit(func([]byte) []byte { return nil }), Loaded{Damaged: 1}},
		{"a bit flipped", edit(func(b []byte) []byte { b[recordSize] ^= 1; return b }), Loaded{Damaged: 1}},
		{"of another boot", edit(func(b []byte) []byte { b[8] ^= 1; return b }), Loaded{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, _ := open(t, stateDir(t), now)
			must(t, s.Keep(someGroups))
			test.do(t, s)
			diff(t, test.want, reload(t, s, now))
		})
	}
}

// TestGroupsThatCannotBeKept: the ones before stay, and nothing is left behind.
func TestGroupsThatCannotBeKept(t *testing.T) {
	s, _ := open(t, stateDir(t), now)
	must(t, s.Keep(someGroups))
	limitFileSize(t, 100, func() {
		if err := s.Keep(append(someGroups, someGroups...)); err == nil {
			t.Error("more was kept than there is room for")
		}
	})
	if _, err := os.Stat(filepath.Join(s.dir.Path(), groupsName+".new")); !os.IsNotExist(err) {
		t.Errorf("the new file is still there: %v", err)
	}
	diff(t, Loaded{Groups: someGroups}, reload(t, s, now))
}

func FuzzParseGroups(f *testing.F) {
	s := newStore(stateDir(f), origin, now)
	must(f, s.Keep(someGroups))
	b, err := os.ReadFile(filepath.Join(s.dir.Path(), groupsName))
	must(f, err)
	f.Add(b)
	f.Add(b[:recordSize+4])
	f.Fuzz(func(t *testing.T, b []byte) {
		groups, err := s.parseGroups(b)
		if err != nil && groups != nil {
			t.Fatalf("damaged, and %d groups", len(groups))
		}
		if groups == nil {
			return
		}
		must(t, s.Keep(groups))
		again, err := load(s.dir, groupsName, mostGroups, s.parseGroups)
		if diff := cmp.Diff(groups, again); diff != "" || err != nil {
			t.Errorf("kept, and loaded (-kept +loaded), error %v:\n%s", err, diff)
		}
	})
}
