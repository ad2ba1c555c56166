package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/statedir"
)

var now = time.Date(2026, 3, 1, 5, 0, 0, 0, time.UTC)

// stateDir opens a state directory for the length of a test.
func stateDir(tb testing.TB, path string) *statedir.Dir {
	tb.Helper()
	dir, err := statedir.Open(path)
	must(tb, err)
	tb.Cleanup(dir.Close)
	return dir
}

// path is where a file of the journal stands that was rotated away n times.
func (j *Journal) path(n int) string { return filepath.Join(j.dir.Path(), name(n)) }

func open(tb testing.TB, dir *statedir.Dir) (*Journal, []Record) {
	tb.Helper()
	j, left, err := Open(dir, now)
	must(tb, err)
	tb.Cleanup(func() { j.Close() })
	return j, left.Interrupted
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// intents are n of them, told apart by their cookies.
func intents(n int) []Record {
	records := make([]Record, n)
	for i := range records {
		records[i] = full
		records[i].Seq, records[i].Result, records[i].Cookie = 0, Intent, uint64(i+1)
	}
	return records
}

// outcomes are those of intents.
func outcomes(intents []Record) []Record {
	records := append([]Record(nil), intents...)
	for i := range records {
		records[i].Result = Done
	}
	return records
}

// would is a record that is neither an intent nor an outcome.
func would(cookie uint64) Record {
	r := full
	r.Seq, r.Result, r.Cookie = 0, Would, cookie
	return r
}

// read decodes the lines of a file, each of which must be whole.
func read(tb testing.TB, path string) []Record {
	tb.Helper()
	text, err := os.ReadFile(path)
	must(tb, err)
	if len(text) > 0 && text[len(text)-1] != '\n' {
		tb.Errorf("%s ends in half a line", filepath.Base(path))
	}
	var records []Record
	for line := range bytes.Lines(text) {
		var r Record
		if err := json.Unmarshal(line, &r); err != nil {
			tb.Fatalf("%s: %q: %v", filepath.Base(path), line, err)
		}
		records = append(records, r)
	}
	return records
}

func diff(t *testing.T, what string, want, got []Record) {
	t.Helper()
	if diff := cmp.Diff(want, got, equal); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestAppend(t *testing.T) {
	defer goleak.VerifyNone(t)
	dir := stateDir(t, t.TempDir())
	j, interrupted := open(t, dir)
	diff(t, "interrupted", nil, interrupted)
	acts := intents(2)
	must(t, j.Append(acts))
	if acts[0].Seq != 1 || acts[1].Seq != 2 {
		t.Errorf("intents are numbered %d and %d, want 1 and 2", acts[0].Seq, acts[1].Seq)
	}
	rest := append([]Record{would(9)}, outcomes(acts)...)
	must(t, j.Append(rest))
	must(t, j.Close())
	must(t, j.Close())
	diff(t, "written", append(acts, rest...), read(t, j.path(0)))
	if err := j.Append(acts); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Append after Close: %v", err)
	}

	j, interrupted = open(t, dir)
	diff(t, "interrupted", nil, interrupted)
	more := intents(1)
	must(t, j.Append(more))
	if more[0].Seq != 3 {
		t.Errorf("after a restart an intent is number %d, want 3", more[0].Seq)
	}
	must(t, j.Close())
}

// TestInterrupted ends a journal at every byte of an outcome, as a crash does,
// and scans for the outcomes that the restart adds.
func TestInterrupted(t *testing.T) {
	dir := stateDir(t, smallDisk(t, 256<<10)) // where an fsync costs nothing
	j, _ := open(t, dir)
	acts := intents(2)
	must(t, j.Append(acts))
	info, err := os.Stat(j.path(0))
	must(t, err)
	decided := info.Size()
	must(t, j.Append(outcomes(acts)))
	must(t, j.Close())
	whole, err := os.ReadFile(j.path(0))
	must(t, err)

	first := decided + int64(bytes.IndexByte(whole[decided:], '\n')) + 1
	sizes := []int64{int64(len(whole))}
	for size := decided; size <= first+1; size++ {
		sizes = append(sizes, size)
	}
	for _, size := range sizes {
		must(t, os.WriteFile(j.path(0), whole[:size], 0o600))
		done := bytes.Count(whole[decided:size], newline)
		var want []Record
		for _, r := range acts[done:] {
			r.Time, r.Result, r.Reason = now, Interrupted, "sockdog ended before the outcome was known"
			want = append(want, r)
		}
		again, got := open(t, dir)
		must(t, again.Close())
		diff(t, "interrupted", want, got)
		diff(t, "the file", append(append(acts[:2:2], outcomes(acts)[:done]...), want...), read(t, j.path(0)))

		again, got = open(t, dir)
		must(t, again.Close())
		diff(t, "interrupted once more", nil, got)
		if t.Failed() {
			t.Fatalf("the file ended after %d of %d bytes", size, len(whole))
		}
	}
}

// An intent of a sockdog that knew no versions gets its outcome, one of a newer
// sockdog gets none, and is counted.
func TestVersions(t *testing.T) {
	text, err := os.ReadFile("testdata/v1/sockdog.jsonl")
	must(t, err)
	dir := stateDir(t, t.TempDir())
	path := filepath.Join(dir.Path(), fileName)
	must(t, os.WriteFile(path, text, 0o600))
	j, interrupted := open(t, dir)
	if len(interrupted) != 1 || interrupted[0].Seq != 2 || interrupted[0].Cookie != 2 || interrupted[0].Netns != full.Netns || interrupted[0].Result != Interrupted {
		t.Errorf("interrupted %+v, want the intent of cookie 2", interrupted)
	}
	acts := intents(1)
	must(t, j.Append(acts))
	must(t, j.Close())

	text, err = os.ReadFile(path)
	must(t, err)
	before, after, ok := bytes.Cut(text, []byte(`"version":1}`))
	if !ok || bytes.Contains(after, []byte("version")) {
		t.Fatalf("want one version, of the last intent:\n%s", text)
	}
	must(t, os.WriteFile(path, slices.Concat(before, []byte(`"version":2}`), after), 0o600))
	j, left, err := Open(dir, now)
	must(t, err)
	if len(left.Interrupted) != 0 || left.Newer != 1 {
		t.Errorf("left: %+v, want one intent of a newer sockdog", left)
	}
	must(t, j.Append(intents(1)))
	must(t, j.Close())
}

// TestTornIntent: nothing was done on the word of half an intent.
func TestTornIntent(t *testing.T) {
	dir := stateDir(t, t.TempDir())
	j, _ := open(t, dir)
	must(t, j.Append([]Record{would(1)}))
	must(t, j.Append(intents(1)))
	must(t, j.Close())
	info, err := os.Stat(j.path(0))
	must(t, err)
	must(t, os.Truncate(j.path(0), info.Size()-1))
	j, interrupted := open(t, dir)
	must(t, j.Append([]Record{would(2)}))
	must(t, j.Close())
	diff(t, "interrupted", nil, interrupted)
	diff(t, "the file", []Record{would(1), would(2)}, read(t, j.path(0)))
}

// TestStrangeLines: what a person wrote into the file is passed over.
func TestStrangeLines(t *testing.T) {
	dir := stateDir(t, t.TempDir())
	j, _ := open(t, dir)
	must(t, j.Append(intents(1)))
	must(t, j.Close())
	f, err := os.OpenFile(j.path(0), os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	_, err = f.WriteString("# see ticket\n\n{\"seq\":5,\"result\":\"intent\"\n{\"seq\":x}\n" + strings.Repeat("long", 1<<16) + "\n")
	must(t, err)
	must(t, f.Close())
	j, interrupted := open(t, dir)
	defer j.Close()
	if len(interrupted) != 1 || interrupted[0].Seq != 1 {
		t.Errorf("interrupted %+v, want the one intent", interrupted)
	}
}

func TestRotate(t *testing.T) {
	defer goleak.VerifyNone(t)
	dir := stateDir(t, t.TempDir())
	j, _ := open(t, dir)
	j.maxSize = 1050 // two lines and a bit
	var all []Record
	for i := range 40 {
		acts := intents(1)
		acts[0].Cookie = uint64(i)
		must(t, j.Append(acts))
		must(t, j.Append([]Record{would(100)}))
		must(t, j.Append(outcomes(acts)))
		all = append(all, acts[0], would(100), outcomes(acts)[0])
	}
	must(t, j.Close())

	var kept []Record
	for n := keep; n >= 0; n-- {
		part := read(t, j.path(n))
		if part[0].Result != Intent || part[len(part)-1].Result != Done {
			t.Errorf("file %d tears an intent from its outcome", n)
		}
		kept = append(kept, part...)
	}
	diff(t, "all files together", all[len(all)-len(kept):], kept)
	if _, err := os.Stat(j.path(keep + 1)); err == nil {
		t.Errorf("more than %d files are kept", keep)
	}
	fds, err := filepath.Glob("/proc/self/fd/*")
	must(t, err)
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil && strings.HasPrefix(target, dir.Path()+"/"+fileName) {
			t.Errorf("%s is still open", target)
		}
	}
}

// TestRotateWhileOpen: a file is rotated away with intents that are still open;
// the next one begins with them, and a crash closes each once.
func TestRotateWhileOpen(t *testing.T) {
	dir := stateDir(t, t.TempDir())
	j, _ := open(t, dir)
	j.maxSize = 10_000
	acts := intents(3)
	must(t, j.Append(acts))
	for i := range 300 {
		must(t, j.Append([]Record{would(uint64(100 + i))}))
	}
	for n := range keep + 1 {
		info, err := os.Stat(j.path(n))
		must(t, err)
		if info.Size() > 12_000 {
			t.Errorf("file %d has grown to %d bytes", n, info.Size())
		}
	}
	diff(t, "the newest begins with", acts, read(t, j.path(0))[:3])
	must(t, j.Append(outcomes(acts)[1:2]))
	must(t, j.Close())

	var want []Record
	for _, i := range []int{0, 2} {
		r := acts[i]
		r.Time, r.Result, r.Reason = now, Interrupted, "sockdog ended before the outcome was known"
		want = append(want, r)
	}
	j, got := open(t, dir)
	diff(t, "interrupted", want, got)
	must(t, j.Close())
	_, got = open(t, dir)
	diff(t, "interrupted once more", nil, got)
}

// TestRotateCrash ends a rotation after each of its steps, as a crash does: no
// line and no open intent is lost, and none is closed twice.
func TestRotateCrash(t *testing.T) {
	for steps := range 5 {
		dir := stateDir(t, t.TempDir())
		newPath := filepath.Join(dir.Path(), fileName+".new")
		j, _ := open(t, dir)
		acts := intents(2)
		must(t, j.Append(acts))
		must(t, j.Append(outcomes(acts)[:1]))
		for i, step := range []func(){
			func() { must(t, j.moveAway()) },
			func() { must(t, os.WriteFile(newPath, nil, 0o600)) },
			func() {
				text, err := acts[1].MarshalJSON()
				must(t, err)
				must(t, os.WriteFile(newPath, append(text, '\n'), 0o600))
			},
			func() { must(t, os.Rename(newPath, j.path(0))) },
		} {
			if i < steps {
				step()
			}
		}
		must(t, j.Close())
		j, got := open(t, dir)
		if len(got) != 1 || got[0].Seq != acts[1].Seq {
			t.Errorf("after %d steps these were interrupted: %v", steps, got)
		}
		more := intents(1)
		must(t, j.Append(more))
		if more[0].Seq != 3 {
			t.Errorf("after %d steps the next intent is number %d, want 3", steps, more[0].Seq)
		}
		must(t, j.Append(outcomes(more)))
		must(t, j.Close())
		_, got = open(t, dir)
		diff(t, "interrupted once more", nil, got)
		j, _ = open(t, dir)
		j.maxSize = 1
		must(t, j.Append(nil)) // rotates
		must(t, j.Close())
		if _, err := os.Stat(newPath); !os.IsNotExist(err) {
			t.Errorf("after %d steps the new file is left beside its place: %v", steps, err)
		}
	}
}

// TestRemoved: a journal, or its whole directory, that somebody removes or moves
// away goes on in a new file, which begins with the open intents.
func TestRemoved(t *testing.T) {
	for _, test := range []struct {
		name    string
		remove  func(path string) error // of the directory
		missing bool                    // for good
	}{
		{"the file", func(path string) error { return os.Remove(filepath.Join(path, fileName)) }, false},
		{"the file moved away", func(path string) error {
			return os.Rename(filepath.Join(path, fileName), filepath.Join(path, "old"))
		}, false},
		{"the directory", os.RemoveAll, true},
		{"the directory moved away", func(path string) error { return os.Rename(path, path+".old") }, true},
		{"the directory, and made again", func(path string) error {
			return errors.Join(os.RemoveAll(path), os.Mkdir(path, 0o700))
		}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := stateDir(t, filepath.Join(t.TempDir(), "state"))
			j, _ := open(t, dir)
			acts := intents(2)
			must(t, j.Append(acts))
			must(t, j.Append(outcomes(acts)[:1]))
			must(t, test.remove(dir.Path()))
			if err := j.Append(nil); (err != nil) != test.missing {
				t.Errorf("Append: %v", err)
			}
			if test.missing {
				if err := j.Append([]Record{would(1)}); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("Append: %v", err)
				}
				must(t, os.Mkdir(dir.Path(), 0o700))
			}
			must(t, j.Append([]Record{would(2)}))
			diff(t, "the file", []Record{acts[1], would(2)}, read(t, j.path(0)))
			must(t, j.Close())
		})
	}
}

// TestSync waits until what was written is synced.
func TestSync(t *testing.T) {
	j, _ := open(t, stateDir(t, t.TempDir()))
	must(t, j.Append([]Record{would(1)}))
	deadline := time.Now().Add(10 * time.Second)
	for {
		j.mu.Lock()
		left := j.unsynced
		j.mu.Unlock()
		if !left.soon && !left.named {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("still to be synced: %+v", left)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestRotateCountsOn: a restart just after a rotation gives no number twice.
func TestRotateCountsOn(t *testing.T) {
	dir := stateDir(t, t.TempDir())
	j, _ := open(t, dir)
	j.maxSize = 1
	acts := intents(3)
	must(t, j.Append(acts))
	must(t, j.Append(outcomes(acts)))
	must(t, j.Append(nil)) // rotates
	must(t, j.Close())
	if got := read(t, j.path(0)); len(got) != 0 {
		t.Fatalf("the fresh file has %d lines", len(got))
	}
	j, _ = open(t, dir)
	more := intents(1)
	must(t, j.Append(more))
	if more[0].Seq != 4 {
		t.Errorf("the next intent is number %d, want 4", more[0].Seq)
	}
}

// TestRotateFails: where no file can be made, attempts to rotate push none over
// the edge, and lines are still written.
func TestRotateFails(t *testing.T) {
	dir := stateDir(t, smallDisk(t, 256<<10))
	j, _ := open(t, dir)
	j.maxSize = 1
	must(t, j.Append([]Record{would(1)}))
	must(t, j.Append([]Record{would(2)}))
	ballast := func(i int) string { return filepath.Join(dir.Path(), fmt.Sprint("ballast", i)) }
	files := 0
	for {
		err := os.WriteFile(ballast(files), nil, 0o600)
		if errors.Is(err, unix.ENOSPC) {
			break
		}
		must(t, err)
		files++
	}
	for i := range 8 {
		if err := j.Append([]Record{would(uint64(3 + i))}); !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("a rotation without room for a file: %v", err)
		}
	}
	for i := range files {
		must(t, os.Remove(ballast(i)))
	}
	must(t, j.Append([]Record{would(11)}))
	must(t, j.Close())
	diff(t, "the oldest", []Record{would(1)}, read(t, j.path(2)))
	if got := read(t, j.path(1)); len(got) != 9 {
		t.Errorf("the file that was to be rotated has %d lines, want 9", len(got))
	}
	diff(t, "the newest", []Record{would(11)}, read(t, j.path(0)))
}

// TestRotateAgain rotates after a rotation that ended halfway, by a crash or an error: the
// files that it moved away stay where they are.
func TestRotateAgain(t *testing.T) {
	dir := stateDir(t, t.TempDir())
	j, _ := open(t, dir)
	j.maxSize = 1
	for i := range uint64(keep + 1) {
		must(t, j.Append([]Record{would(i)}))
	}
	for range 2 * keep {
		must(t, j.moveAway())
		must(t, os.Rename(j.path(1), j.path(0)))
	}
	must(t, j.Append(nil))
	for n := 2; n <= keep; n++ {
		diff(t, name(n), []Record{would(uint64(keep + 1 - n))}, read(t, j.path(n)))
	}
}

// TestFull fills a real file system and makes room again.
func TestFull(t *testing.T) {
	const size = 256 << 10
	dir := stateDir(t, smallDisk(t, size))
	j, _ := open(t, dir)
	ballast := filepath.Join(dir.Path(), "ballast")

	recorded := intents(100)
	must(t, j.Append(recorded))
	fill(t, ballast)
	results := outcomes(recorded)
	if err := j.Append(results); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("Append on a full disk: %v", err)
	}
	lost := intents(100) // some find room in the last page
	if err := j.Append(lost); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("Append on a full disk: %v", err)
	}
	before := read(t, j.path(0))

	must(t, os.Remove(ballast))
	more := outcomes(lost)
	must(t, j.Append(more))
	must(t, j.Close())
	want := append(before, results[len(before)-len(recorded):]...)
	want = append(want, more...)
	diff(t, "the file", want, read(t, j.path(0)))

	j, interrupted := open(t, dir)
	diff(t, "interrupted", nil, interrupted)
	must(t, j.Close())
}

// TestFullAtOpen: a restart on a full disk loses nothing of what is owed.
func TestFullAtOpen(t *testing.T) {
	dir := stateDir(t, smallDisk(t, 128<<10))
	j, _ := open(t, dir)
	acts := intents(50)
	must(t, j.Append(acts))
	must(t, j.Close())
	ballast := filepath.Join(dir.Path(), "ballast")
	fill(t, ballast)

	j, interrupted := open(t, dir)
	if len(interrupted) != len(acts) {
		t.Errorf("%d intents were interrupted, want %d", len(interrupted), len(acts))
	}
	if err := j.Append(nil); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("what is owed finds no room, and the error is %v", err)
	}
	must(t, os.Remove(ballast))
	must(t, j.Append(nil))
	must(t, j.Close())
	diff(t, "the file", append(acts, interrupted...), read(t, j.path(0)))
}

// fill leaves no byte of a file system free.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	for block := make([]byte, 4096); err == nil; {
		_, err = f.Write(block)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal("fill the disk: ", err)
	}
}

func TestUnwritable(t *testing.T) {
	defer goleak.VerifyNone(t)
	dir := stateDir(t, t.TempDir())
	must(t, os.Chmod(dir.Path(), 0o500))
	defer os.Chmod(dir.Path(), 0o700)
	nstest.WithoutCapabilities(t, func() {
		if _, _, err := Open(dir, now); !errors.Is(err, os.ErrPermission) {
			t.Errorf("a directory that may not be written to: %v", err)
		}
	})
}

// TestTruncated: somebody empties the file to make room.
func TestTruncated(t *testing.T) {
	j, _ := open(t, stateDir(t, t.TempDir()))
	must(t, j.Append([]Record{would(1), would(2)}))
	must(t, os.Truncate(j.path(0), 0))
	must(t, j.Append([]Record{would(3)}))
	diff(t, "the file", []Record{would(3)}, read(t, j.path(0)))
}

// TestReadWhileWritten: what a reader finds up to the last line end is whole.
func TestReadWhileWritten(t *testing.T) {
	j, _ := open(t, stateDir(t, t.TempDir()))
	const batches, batch = 200, 20
	done := make(chan error)
	go func() {
		defer close(done)
		for i := range batches {
			acts := intents(batch / 2)
			if err := errors.Join(j.Append(acts), j.Append(outcomes(acts))); err != nil {
				done <- fmt.Errorf("batch %d: %w", i, err)
				return
			}
		}
	}()
	f, err := os.Open(j.path(0))
	must(t, err)
	defer f.Close()
	var text []byte
	lines := 0
	for writing := true; writing; {
		select {
		case err := <-done:
			must(t, err)
			writing = false // and read what came last
		default:
		}
		more, err := io.ReadAll(f)
		must(t, err)
		text = append(text, more...)
		end := bytes.LastIndexByte(text, '\n') + 1
		for line := range bytes.Lines(text[:end]) {
			var r Record
			if err := json.Unmarshal(line, &r); err != nil {
				t.Fatalf("line %d: %q: %v", lines, line, err)
			}
			lines++
		}
		text = text[end:]
	}
	if lines != batches*batch || len(text) != 0 {
		t.Errorf("read %d lines and %d bytes, want %d lines", lines, len(text), batches*batch)
	}
}

// BenchmarkAppend writes the intents and outcomes of 9,000 kills, in the
// batches in which sockets are destroyed.
// TestCloseAsTheTimerIsDue: what the timer has begun may come to its turn only once all is
// closed.
func TestCloseAsTheTimerIsDue(t *testing.T) {
	for range 100 {
		j, _ := open(t, stateDir(t, t.TempDir()))
		must(t, j.Append(intents(1)))
		synced := make(chan struct{})
		go func() {
			defer close(synced)
			j.sync()
		}()
		must(t, j.Close())
		<-synced
	}
}

func BenchmarkAppend(b *testing.B) {
	j, _ := open(b, stateDir(b, b.TempDir()))
	batch := intents(128)
	b.ReportAllocs()
	lines := 0
	for b.Loop() {
		for range 9000 / len(batch) {
			must(b, j.Append(batch))
			for i := range batch {
				batch[i].Result = Done
			}
			must(b, j.Append(batch))
			for i := range batch {
				batch[i].Result = Intent
			}
			lines += 2 * len(batch)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(lines), "ns/line")
}

func BenchmarkOpen(b *testing.B) {
	dir := stateDir(b, b.TempDir())
	j, _ := open(b, dir)
	for j.size < maxSize {
		acts := intents(128)
		must(b, j.Append(acts))
		must(b, j.Append(outcomes(acts)))
	}
	must(b, j.Close())
	b.ReportAllocs()
	for b.Loop() {
		j, _ := open(b, dir)
		must(b, j.Close())
	}
}
