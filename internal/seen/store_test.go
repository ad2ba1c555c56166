package seen

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"flag"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/statedir"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

const now = sock.Instant(1e12)

const netns = 4026531840

var origin = sock.Origin{BootID: "01020300000000000000000000000000", NetnsCookie: 4711}

// keyOf are keys that differ by cookie, and where that is the same by namespace.
func keyOf(cookie uint64) sock.Key { return sock.Key{Netns: netns, Cookie: cookie} }

// track is the i-th of many different ones.
func track(i int) sock.Memory {
	at := sock.Instant(i) * 1e6
	return sock.Memory{
		Key: keyOf(uint64(i + 1)), ID: ^uint64(i), State: ssfilter.CloseWait,
		Entered: at, Quiet: at + 1, Queued: at + 2,
		Acked: uint64(i) << 33, Received: uint64(i) << 34, SegsIn: uint32(i),
		Backlog: i%3 == 1, Accepted: i%3 == 2,
	}
}

func tracks(n int) []sock.Memory {
	all := make([]sock.Memory, n)
	for i := range all {
		all[i] = track(i)
	}
	return all
}

// stateDir opens a state directory for the length of a test.
func stateDir(tb testing.TB) *statedir.Dir {
	tb.Helper()
	dir, err := statedir.Open(tb.TempDir())
	must(tb, err)
	tb.Cleanup(dir.Close)
	return dir
}

func open(tb testing.TB, dir *statedir.Dir, now sock.Instant) (*Store, Loaded) {
	tb.Helper()
	s, loaded, err := Open(dir, origin, now)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Close() })
	return s, loaded
}

// reload closes s and says what a restart would load.
func reload(tb testing.TB, s *Store, now sock.Instant) Loaded {
	tb.Helper()
	s.Close() // also where it is closed already
	again, loaded := open(tb, s.dir, now)
	must(tb, again.Close())
	return loaded
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func diff(t *testing.T, want, got Loaded) {
	t.Helper()
	byKey := cmpopts.SortSlices(func(a, b sock.Memory) int {
		return cmp.Or(cmp.Compare(a.Cookie, b.Cookie), cmp.Compare(a.Netns, b.Netns))
	})
	if diff := gocmp.Diff(want, got, cmpopts.EquateEmpty(), byKey); diff != "" {
		t.Errorf("loaded (-want +got):\n%s", diff)
	}
}

func TestRestart(t *testing.T) {
	minute := sock.Instant(60e9)
	changed := track(1)
	changed.State, changed.Quiet = ssfilter.FinWait2, now
	spent := sock.Spent{Rule: sock.RuleSum("leak"), N: 3, At: now - 10, Expires: now + minute}

	tests := []struct {
		name  string
		write func(s *Store) error
		want  Loaded
	}{
		{
			name:  "nothing",
			write: func(s *Store) error { return nil },
		},
		{
			name:  "tracks",
			write: func(s *Store) error { return s.Put(tracks(3)) },
			want:  Loaded{Memories: tracks(3)},
		},
		{
			name:  "more than one write takes",
			write: func(s *Store) error { return s.Put(tracks(2*chunk + 1)) },
			want:  Loaded{Memories: tracks(2*chunk + 1)},
		},
		{
			name: "the last one of a cookie counts",
			write: func(s *Store) error {
				return errors.Join(s.Put(tracks(3)), s.Put([]sock.Memory{changed}))
			},
			want: Loaded{Memories: []sock.Memory{track(0), changed, track(2)}},
		},
		{
			name: "the same cookie in another namespace",
			write: func(s *Store) error {
				other := changed
				other.Netns++
				return s.Put([]sock.Memory{track(1), other})
			},
			want: Loaded{Memories: []sock.Memory{track(1), func() sock.Memory { m := changed; m.Netns++; return m }()}},
		},
		{
			name: "forgotten",
			write: func(s *Store) error {
				return errors.Join(s.Put(tracks(3)), s.Forget([]sock.Key{keyOf(2), keyOf(99), {Netns: 1, Cookie: 1}}))
			},
			want: Loaded{Memories: []sock.Memory{track(0), track(2)}},
		},
		{
			name: "forgotten and seen again",
			write: func(s *Store) error {
				return errors.Join(s.Put(tracks(2)), s.Forget([]sock.Key{keyOf(1), keyOf(2)}), s.Put([]sock.Memory{changed}))
			},
			want: Loaded{Memories: []sock.Memory{changed}},
		},
		{
			name: "limits",
			write: func(s *Store) error {
				return s.Spend([]sock.Spent{{Rule: 1, N: 1, At: 1, Expires: now}, spent, spent})
			},
			want: Loaded{Spent: []sock.Spent{spent, spent}},
		},
		{
			name: "from the future",
			write: func(s *Store) error {
				future := track(1)
				future.Queued = now + 1
				later := spent
				later.At = now + 1
				return errors.Join(s.Put(tracks(3)), s.Put([]sock.Memory{future}), s.Spend([]sock.Spent{later}))
			},
			want: Loaded{Memories: []sock.Memory{track(0), track(2)}, Damaged: 2},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s, _ := open(t, stateDir(t), now)
			must(t, test.write(s))
			diff(t, test.want, reload(t, s, now))
			test.want.Damaged = 0 // was said, and is gone for good
			diff(t, test.want, reload(t, s, now+2))
		})
	}
}

// TestAnotherWorld: cookies and instants mean nothing in another boot or
// another namespace.
func TestAnotherWorld(t *testing.T) {
	tests := []struct {
		name   string
		origin sock.Origin
	}{
		{"another boot", sock.Origin{BootID: "09000000000000000000000000000000", NetnsCookie: origin.NetnsCookie}},
		{"another namespace", sock.Origin{BootID: origin.BootID, NetnsCookie: origin.NetnsCookie + 1}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := stateDir(t)
			s, _ := open(t, dir, now)
			must(t, s.Put(tracks(3)))
			must(t, s.Close())

			s, loaded, err := Open(dir, test.origin, now)
			must(t, err)
			diff(t, Loaded{}, loaded)
			must(t, s.Put([]sock.Memory{track(7)}))
			must(t, s.Close())

			s, loaded, err = Open(dir, test.origin, now)
			must(t, err)
			diff(t, Loaded{Memories: []sock.Memory{track(7)}}, loaded)
			must(t, s.Close())
		})
	}
}

// TestTorn ends the file at every byte, as a kill in the middle of a write does.
func TestTorn(t *testing.T) {
	dir := stateDir(t)
	s, _ := open(t, dir, now)
	must(t, s.Put(tracks(4)))
	must(t, s.Close())
	path := filepath.Join(dir.Path(), fileName)
	whole, err := os.ReadFile(path)
	must(t, err)

	for size := range len(whole) + 1 {
		must(t, os.WriteFile(path, whole[:size], 0o600))
		var want Loaded
		if size >= recordSize {
			want.Memories = tracks(size/recordSize - 1)
		}
		if size%recordSize != 0 {
			want.Damaged = 1
		}
		s, loaded, err := Open(dir, origin, now)
		must(t, err)
		diff(t, want, loaded)
		must(t, s.Put([]sock.Memory{track(9)}))
		diff(t, Loaded{Memories: append(want.Memories, track(9))}, reload(t, s, now))
		if t.Failed() {
			t.Fatalf("the file ended after %d bytes", size)
		}
	}
}

// TestFull lets a write end in the middle of a record, as on a full disk, and
// then gives the space back.
func TestFull(t *testing.T) {
	dir := stateDir(t)
	s, _ := open(t, dir, now)
	must(t, s.Put(tracks(2)))
	limitFileSize(t, 4*recordSize+recordSize/2, func() {
		if err := s.Put(tracks(10)[2:]); !errors.Is(err, unix.EFBIG) {
			t.Errorf("a record that found no room: %v", err)
		}
		if err := s.Forget([]sock.Key{keyOf(1), keyOf(2)}); !errors.Is(err, unix.EFBIG) {
			t.Errorf("a record that found no room: %v", err)
		}
	})
	must(t, s.Put([]sock.Memory{track(9)}))
	diff(t, Loaded{Memories: append(tracks(2), track(9))}, reload(t, s, now))
}

// TestFullFromTheStart: not even the header finds room at first.
func TestFullFromTheStart(t *testing.T) {
	s, _ := open(t, stateDir(t), now)
	limitFileSize(t, recordSize/2, func() {
		if err := s.Put(tracks(1)); !errors.Is(err, unix.EFBIG) {
			t.Errorf("a record that found no room: %v", err)
		}
	})
	must(t, s.Put(tracks(2)))
	diff(t, Loaded{Memories: tracks(2)}, reload(t, s, now))
}

// limitFileSize runs f while no file of this process can grow beyond size: a
// write that crosses it is cut short, and the next one refused.
func limitFileSize(t *testing.T, size uint64, f func()) {
	t.Helper()
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	var old unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_FSIZE, &old))
	must(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: size, Max: old.Max}))
	defer func() { must(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &old)) }()
	f()
}

func TestCompact(t *testing.T) {
	dir := stateDir(t)
	s, _ := open(t, dir, now)
	spent := sock.Spent{Rule: 1, N: 1, At: 5, Expires: now + 1}
	must(t, s.Spend([]sock.Spent{spent, {Rule: 2, N: 1, At: 5, Expires: 6}}))
	must(t, s.Put(tracks(50)))
	must(t, s.Forget([]sock.Key{keyOf(1)}))
	want := Loaded{Memories: tracks(50)[1:], Spent: []sock.Spent{spent}}
	largest, compacted := int64(0), false
	for i := range 40_000 {
		quiet := track(20)
		quiet.Quiet = now - 40_000 + sock.Instant(i)
		must(t, s.Put([]sock.Memory{quiet}))
		want.Memories[19] = quiet
		info, err := os.Stat(filepath.Join(dir.Path(), fileName))
		must(t, err)
		compacted = compacted || info.Size() < largest
		largest = max(largest, info.Size())
	}
	if !compacted {
		t.Error("the file was never written anew")
	}
	if bound := int64(slack + 2*60*recordSize); largest > bound {
		t.Errorf("50 tracks took up to %d bytes, want at most %d", largest, bound)
	}
	diff(t, want, reload(t, s, now))
	if _, err := os.Stat(filepath.Join(dir.Path(), fileName+".new")); err == nil {
		t.Error("the temporary file is still there")
	}
}

// TestHeaderDamaged: what nobody can read any more is not taken for another
// boot's.
func TestHeaderDamaged(t *testing.T) {
	for at := range recordSize {
		s, _ := open(t, stateDir(t), now)
		must(t, s.Put(tracks(3)))
		path := filepath.Join(s.dir.Path(), fileName)
		text, err := os.ReadFile(path)
		must(t, err)
		text[at] ^= 0x10
		must(t, os.WriteFile(path, text, 0o600))
		diff(t, Loaded{Damaged: 1}, reload(t, s, now))
		diff(t, Loaded{}, reload(t, s, now)) // was said, and is gone for good
	}
}

// copyState copies files that another sockdog wrote into a state directory.
func copyState(t *testing.T, change func(text []byte)) *statedir.Dir {
	t.Helper()
	dir := stateDir(t)
	for _, name := range []string{fileName, groupsName} {
		text, err := os.ReadFile(filepath.Join("testdata/v1", name))
		must(t, err)
		change(text)
		must(t, os.WriteFile(filepath.Join(dir.Path(), name), text, 0o600))
	}
	return dir
}

// TestFormat: what the present version wrote once is read as it was meant, and written
// as it was.
func TestFormat(t *testing.T) {
	if size := valueAt + binary.Size(memory{}); size != recordSize {
		t.Errorf("a memory takes %d bytes of %d", size, recordSize)
	}
	s, _ := open(t, stateDir(t), now)
	want := Loaded{
		Memories: slices.Delete(tracks(7), 3, 4), Groups: someGroups,
		Spent: []sock.Spent{{Rule: sock.RuleSum("leak"), N: 3, At: now - 10, Expires: now + 60e9}},
	}
	must(t, errors.Join(s.Put(tracks(7)), s.Forget([]sock.Key{keyOf(4)}), s.Spend(want.Spent), s.Keep(want.Groups)))
	diff(t, want, reload(t, s, now))
	for _, name := range []string{fileName, groupsName} {
		got, err := os.ReadFile(filepath.Join(s.dir.Path(), name))
		must(t, err)
		golden := filepath.Join("testdata/v"+string(version), name)
		if *update {
			must(t, errors.Join(os.MkdirAll(filepath.Dir(golden), 0o755), os.WriteFile(golden, got, 0o644)))
		}
		want, err := os.ReadFile(golden)
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Errorf("%s is written otherwise than before: that takes a new version", name)
		}
	}
}

var update = flag.Bool("update", false, "write the files anew that a version is known by")

// TestOtherVersion: what another version of sockdog wrote is set aside whole, also by
// a reader of another boot, and the store is a new one.
func TestOtherVersion(t *testing.T) {
	otherBoot := origin
	otherBoot.BootID = "09000000000000000000000000000000"
	for _, test := range []struct {
		name    string
		version byte
		origin  sock.Origin
	}{
		{"older", '1', origin}, {"older, of another boot", '1', otherBoot}, {"newer", '5', origin},
	} {
		t.Run(test.name, func(t *testing.T) {
			change := func(text []byte) { text[len(magic)] = test.version }
			dir := copyState(t, change)
			if _, err := Read(dir, test.origin, now); !errors.Is(err, otherVersion(test.version)) {
				t.Errorf("read beside another sockdog: %v", err)
			}
			s, loaded, err := Open(dir, test.origin, now)
			must(t, err)
			defer s.Close()
			aside := []string{"seen.v" + string(test.version), "groups.v" + string(test.version)}
			diff(t, Loaded{SetAside: aside}, loaded)
			must(t, s.Put(tracks(2)))
			must(t, s.Keep(someGroups))
			loaded, err = Read(dir, test.origin, now)
			must(t, err)
			diff(t, Loaded{Memories: tracks(2), Groups: someGroups}, loaded)
			for i, name := range []string{fileName, groupsName} {
				want, err := os.ReadFile(filepath.Join("testdata/v1", name))
				must(t, err)
				change(want)
				got, err := os.ReadFile(filepath.Join(dir.Path(), aside[i]))
				must(t, err)
				if !bytes.Equal(want, got) {
					t.Errorf("%s was not set aside as it was", name)
				}
			}
		})
	}
}

// TestOtherVersionOnAFullDisk: it is set aside all the same.
func TestOtherVersionOnAFullDisk(t *testing.T) {
	dir := copyState(t, func([]byte) {})
	limitFileSize(t, recordSize, func() {
		s, loaded := open(t, dir, now)
		diff(t, Loaded{SetAside: []string{"seen.v1", "groups.v1"}}, loaded)
		if err := s.Put(tracks(1)); !errors.Is(err, unix.EFBIG) {
			t.Errorf("a record that found no room: %v", err)
		}
	})
}

// TestRemoved: a file, or its whole directory, that somebody removes or replaces
// is written anew, with all that was in it.
func TestRemoved(t *testing.T) {
	for _, test := range []struct {
		name    string
		remove  func(path string) error // of the directory
		missing bool                    // for good
	}{
		{"the file", func(path string) error { return os.Remove(filepath.Join(path, fileName)) }, false},
		{"the file renamed", func(path string) error {
			return os.Rename(filepath.Join(path, fileName), filepath.Join(path, "old"))
		}, false},
		{"the directory", os.RemoveAll, true},
		{"the directory, and made again", func(path string) error {
			return errors.Join(os.RemoveAll(path), os.Mkdir(path, 0o700))
		}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state")
			dir, err := statedir.Open(path)
			must(t, err)
			defer dir.Close()
			s, _ := open(t, dir, now)
			must(t, s.Put(tracks(3)))
			must(t, test.remove(path))
			if err := s.Put(tracks(4)[3:]); (err != nil) != test.missing {
				t.Errorf("Put: %v", err)
			}
			if test.missing {
				if err := s.Put(nil); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("Put of nothing: %v", err)
				}
				must(t, os.Mkdir(path, 0o700))
				must(t, s.Put(nil)) // what was in it
				must(t, s.Put(tracks(4)[3:]))
			}
			diff(t, Loaded{Memories: tracks(4)}, reload(t, s, now))
		})
	}
}

// TestCompactFails: what is written stands where the file cannot be written
// anew.
func TestCompactFails(t *testing.T) {
	dir := stateDir(t)
	s, _ := open(t, dir, now)
	must(t, os.Mkdir(filepath.Join(dir.Path(), fileName+".new"), 0o700)) // in the way
	failures := 0
	for i := range 50_000 {
		quiet := track(1)
		quiet.Quiet = sock.Instant(i)
		if err := s.Put([]sock.Memory{quiet}); err != nil {
			failures++
		}
	}
	if failures == 0 || failures > 5 {
		t.Errorf("%d of 50,000 writes told of the compaction, want a few", failures)
	}
	must(t, os.Remove(filepath.Join(dir.Path(), fileName+".new")))
	want := track(1)
	want.Quiet = 49_999
	diff(t, Loaded{Memories: []sock.Memory{want}}, reload(t, s, now))
}

// TestReadOnly: what cannot be written to can still be read.
func TestReadOnly(t *testing.T) {
	dir := stateDir(t)
	s, _ := open(t, dir, now)
	must(t, s.Put(tracks(3)))
	must(t, s.Close())
	must(t, os.Chmod(dir.Path(), 0o500))
	defer os.Chmod(dir.Path(), 0o700)
	must(t, os.Chmod(filepath.Join(dir.Path(), fileName), 0o400))
	nstest.WithoutCapabilities(t, func() {
		if s, _, err := Open(dir, origin, now); !errors.Is(err, os.ErrPermission) || s != nil {
			t.Errorf("opened %v in a read-only directory, error %v", s, err)
		}
		loaded, err := Read(dir, origin, now)
		must(t, err)
		diff(t, Loaded{Memories: tracks(3)}, loaded)
	})
}

// FuzzLoad damages a file: what is loaded of it was once written.
func FuzzLoad(f *testing.F) {
	dir := stateDir(f)
	s, _ := open(f, dir, now)
	must(f, s.Put(tracks(4)))
	must(f, s.Forget([]sock.Key{keyOf(2)}))
	must(f, s.Spend([]sock.Spent{{Rule: 1, N: 2, At: 3, Expires: now + 1}}))
	must(f, s.Put(tracks(2)[1:]))
	text, err := os.ReadFile(filepath.Join(dir.Path(), fileName))
	must(f, err)

	f.Add(uint(0), []byte{}, uint(len(text)))
	f.Add(uint(recordSize+9), []byte{0xff}, uint(len(text)))
	f.Add(uint(2*recordSize-3), []byte("torn and mended"), uint(4*recordSize-1))
	f.Add(uint(2*recordSize), text[recordSize:2*recordSize], uint(len(text)))
	f.Add(uint(3), []byte{0}, uint(recordSize))
	f.Fuzz(func(t *testing.T, at uint, damage []byte, size uint) {
		text := slices.Clone(text[:min(size, uint(len(text)))])
		if at < uint(len(text)) {
			copy(text[at:], damage)
		}
		loaded, end, err := s.load(bytes.NewReader(text))
		if other := otherVersion(0); errors.As(err, &other) {
			return
		}
		must(t, err)
		seen := make(map[uint64]bool)
		for _, got := range loaded.Memories {
			if got.Cookie == 0 || got.Cookie > 4 || got != track(int(got.Cookie)-1) || seen[got.Cookie] {
				t.Errorf("loaded a track that was not written: %+v", got)
			}
			seen[got.Cookie] = true
		}
		for _, got := range loaded.Spent {
			if want := (sock.Spent{Rule: 1, N: 2, At: 3, Expires: now + 1}); got != want {
				t.Errorf("loaded a limit that was not spent: %+v", got)
			}
		}
		if end > int64(len(text)) || end%recordSize != 0 {
			t.Errorf("of %d bytes, %d hold whole records", len(text), end)
		}
	})
}

func BenchmarkPut(b *testing.B) {
	all := tracks(100_000)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		s, _ := open(b, stateDir(b), now)
		b.StartTimer()
		must(b, s.Put(all))
		b.StopTimer()
		s.Close()
		b.StartTimer()
	}
}

func BenchmarkOpen(b *testing.B) {
	dir := stateDir(b)
	s, _ := open(b, dir, now)
	must(b, s.Put(tracks(100_000)))
	must(b, s.Close())
	b.ReportAllocs()
	for b.Loop() {
		s, loaded := open(b, dir, now)
		if len(loaded.Memories) != 100_000 {
			b.Fatalf("loaded %d tracks", len(loaded.Memories))
		}
		s.Close()
	}
}

func BenchmarkCompact(b *testing.B) {
	s, _ := open(b, stateDir(b), now)
	must(b, s.Put(tracks(100_000)))
	b.ReportAllocs()
	for b.Loop() {
		must(b, s.compact())
	}
}

// A reader takes nothing from the process that writes.
func TestReadBesideTheWriter(t *testing.T) {
	dir := stateDir(t)
	s, _, err := Open(dir, origin, now)
	must(t, err)
	defer s.Close()
	must(t, s.Put(tracks(3)))
	loaded, err := Read(dir, origin, now)
	must(t, err)
	diff(t, Loaded{Memories: tracks(3)}, loaded)
	must(t, s.Put(tracks(4)))
	loaded, err = Read(dir, origin, now)
	must(t, err)
	diff(t, Loaded{Memories: tracks(4)}, loaded)
	if _, err := Read(stateDir(t), origin, now); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no store there: %v", err)
	}
}
