package pause_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sockdog/sockdog/internal/pause"
	"github.com/sockdog/sockdog/internal/statedir"
	"github.com/sockdog/sockdog/internal/status"
)

func openDir(t *testing.T) (*statedir.Dir, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state")
	dir, err := statedir.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(dir.Close)
	return dir, filepath.Join(path, pause.FileName)
}

// TestRead: whatever stands under the name pauses. What it says is the reason, in one line
// that no terminal and no service manager takes for more.
func TestRead(t *testing.T) {
	until := time.Date(2100, 1, 2, 3, 4, 5, 0, time.UTC)
	me := pause.Who(uint32(os.Geteuid()))
	long := strings.Repeat("ä", 300)
	for _, test := range []struct {
		name, text, reason, by string
		until                  time.Time
	}{
		{"empty", "", "no reason was given", me, time.Time{}},
		{"by hand", "the database is moved\n", "the database is moved", me, time.Time{}},
		{"with an end", "moved\nuntil: 2100-01-02T03:04:05Z\n", "moved", me, until},
		{"in any order", "by: uid 7\nuntil: 2100-01-02T03:04:05Z\nmoved", "moved", "uid 7", until},
		{"no instant", "moved\nuntil: tomorrow", "moved until: tomorrow", me, time.Time{}},
		{"hostile", "a\r\nREADY=1\x1b[2J\x00\xff b", "a READY=1 [2J b", me, time.Time{}},
		{"long", long, long[:2*199] + "…", me, time.Time{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, file := openDir(t)
			if err := os.WriteFile(file, []byte(test.text), 0o666); err != nil {
				t.Fatal(err)
			}
			p, err := pause.Read(dir)
			if err != nil || p == nil || p.Reason != test.reason || p.By != test.by || !p.Until.Equal(test.until) || p.File != file || time.Since(p.Since) > time.Minute {
				t.Errorf("read %+v, %v", p, err)
			}
		})
	}
}

// TestReadOther: what is no regular file pauses, too, and is neither opened nor followed;
// what nobody answers for does not.
func TestReadOther(t *testing.T) {
	for name, make := range map[string]func(file string) error{
		"a directory": func(file string) error { return os.Mkdir(file, 0o700) },
		"a link":      func(file string) error { return os.Symlink("/etc/passwd", file) },
		"a broken link": func(file string) error {
			return os.Symlink("/nowhere/at/all", file)
		},
	} {
		dir, file := openDir(t)
		if err := make(file); err != nil {
			t.Fatal(err)
		}
		if p, err := pause.Read(dir); err != nil || p == nil || !strings.HasPrefix(p.Reason, "what the file says cannot be read: ") || strings.Contains(p.Reason, "root:") {
			t.Errorf("%s: read %+v, %v", name, p, err)
		}
	}
	dir, file := openDir(t)
	if err := os.WriteFile(file+"x", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(file+"x", file); err != nil {
		t.Fatal(err)
	}
	if p, err := pause.Read(dir); p != nil || err == nil {
		t.Errorf("a file with two names: read %+v, %v", p, err)
	}
}

// TestWrite: what is written reads back, and is removed.
func TestWrite(t *testing.T) {
	dir, file := openDir(t)
	want := status.Pause{Reason: "deploy", By: "uid 0", Until: time.Now().Add(time.Hour)}
	if err := pause.Write(dir, &want); err != nil {
		t.Fatal(err)
	}
	if p, err := pause.Read(dir); err != nil || p.Reason != want.Reason || p.By != want.By || !p.Until.Equal(want.Until) {
		t.Errorf("read %+v, %v, want %+v", p, err, want)
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("the file is %v, %v", info, err)
	}
	if was, err := pause.Remove(dir); !was || err != nil {
		t.Errorf("removed: %v, %v", was, err)
	}
	if was, err := pause.Remove(dir); was || err != nil {
		t.Errorf("removed once more: %v, %v", was, err)
	}
	if p, err := pause.Read(dir); p != nil || err != nil {
		t.Errorf("read %+v, %v once it was removed", p, err)
	}
}

// keeping runs a Store, and returns what it told last.
func keeping(t *testing.T, dir *statedir.Dir) (k *pause.Store, last func() *status.Pause) {
	k = pause.New(dir, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	var told atomic.Pointer[status.Pause]
	told.Store(k.Present())
	go k.Run(ctx)
	go func() {
		for {
			select {
			case p := <-k.Changes():
				told.Store(p)
			case <-ctx.Done():
				return
			}
		}
	}()
	return k, func() *status.Pause { synctest.Wait(); return told.Load() }
}

// TestStore: the file is seen to come, change and go within a second, and outlives the
// Store; a pause whose time is over takes its file along, and is told as that.
func TestStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, file := openDir(t)
		_, last := keeping(t, dir)
		write := func(text string) {
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			time.Sleep(1001 * time.Millisecond)
		}
		write("one")
		if p := last(); p == nil || p.Reason != "one" {
			t.Errorf("told %+v", p)
		}
		if p := pause.New(dir, nil).Present(); p == nil || p.Reason != "one" {
			t.Errorf("the next run begins with %+v", p)
		}
		write("two\nuntil: " + time.Now().Add(10*time.Second).Format(time.RFC3339))
		if p := last(); p == nil || p.Reason != "two" || p.Until.IsZero() {
			t.Errorf("told %+v", p)
		}
		time.Sleep(11 * time.Second)
		if p := last(); p == nil || !p.Over(time.Now()) {
			t.Errorf("told %+v when it was over", p)
		}
		if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the file of a pause that is over: %v", err)
		}
		write("three")
		os.Remove(file)
		time.Sleep(1001 * time.Millisecond)
		if p := last(); p != nil {
			t.Errorf("told %+v when the file was gone", p)
		}
		write("four")
		write("four\nuntil: " + time.Now().Add(-time.Hour).Format(time.RFC3339))
		if p := last(); p == nil || !p.Over(time.Now()) {
			t.Errorf("told %+v when it was over by an hour", p)
		}
	})
}

// TestStoreSeesPauseThatIsOver: a file whose time is over when it comes pauses nothing, which is
// said once, since its author means something else; and the next pause does not end by it.
func TestStoreSeesPauseThatIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, file := openDir(t)
		var log bytes.Buffer
		k := pause.New(dir, slog.New(slog.NewTextHandler(&log, nil)))
		go k.Run(t.Context())
		over := "moved\nuntil: " + time.Now().Add(-time.Hour).Format(time.RFC3339)
		if err := os.WriteFile(file, []byte(over), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		select {
		case p := <-k.Changes():
			t.Errorf("told %+v", p)
		default:
		}
		if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the file of a pause that is over: %v", err)
		}
		if n := strings.Count(log.String(), `"acting goes on: the time of a pause is over" file=paused reason="moved (`); n != 1 {
			t.Errorf("it is said %d times:\n%s", n, log.String())
		}
		if err := os.WriteFile(file, []byte("again"), 0o600); err != nil {
			t.Fatal(err)
		}
		if p := <-k.Changes(); p == nil || p.Reason != "again" {
			t.Errorf("told %+v", p)
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		if p := <-k.Changes(); p != nil {
			t.Errorf("told %+v when the file was gone", p)
		}
	})
}

// TestStoreWhileTheClockIsSetForward: a pause lasts for as long as was asked for. One of which a
// file alone tells ends at its date.
func TestStoreWhileTheClockIsSetForward(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, file := openDir(t)
		k, last := keeping(t, dir)
		if unkept, err := k.Pause(t.Context(), status.Pause{Reason: "stop", By: "uid 0", Until: time.Now().Add(time.Hour)}); unkept != nil || err != nil {
			t.Fatal(unkept, err)
		}
		k.SetWall(24 * time.Hour)
		time.Sleep(59 * time.Minute)
		if p := last(); p == nil || p.Reason != "stop" {
			t.Errorf("told %+v a minute before it is over", p)
		}
		if _, err := os.Stat(file); err != nil {
			t.Error(err)
		}
		time.Sleep(2 * time.Minute)
		if p := last(); p == nil || !p.Over(time.Now()) {
			t.Errorf("told %+v when it was over", p)
		}
		if err := os.WriteFile(file, []byte("until: "+time.Now().Add(time.Hour).Format(time.RFC3339)), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the file of a pause whose date has passed: %v", err)
		}
	})
}

// TestStoreLosesDirectory: a directory that is away is no word to go on.
func TestStoreLosesDirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, file := openDir(t)
		k, last := keeping(t, dir)
		if unkept, err := k.Pause(t.Context(), status.Pause{Reason: "stop", By: "uid 0"}); unkept != nil || err != nil {
			t.Fatal(unkept, err)
		}
		away := filepath.Dir(file) + ".away"
		if err := os.Rename(filepath.Dir(file), away); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		if p := last(); p == nil || p.Reason != "stop" {
			t.Errorf("told %+v while the directory is away", p)
		}
		if unkept, err := k.Pause(t.Context(), status.Pause{Reason: "again", By: "uid 0"}); err != nil || last() == nil {
			t.Errorf("paused while the directory is away: told %+v, %v, %v", last(), unkept, err)
		}
		if err := os.Rename(away, filepath.Dir(file)); err != nil {
			t.Fatal(err)
		}
		if was, err := k.Resume(t.Context()); err != nil || was == nil || last() != nil {
			t.Errorf("resumed: was %+v, told %+v, %v", was, last(), err)
		}
	})
}

// TestStoreInMemory: without a directory, or with one that takes nothing, a pause is in
// memory, and says so; it ends by itself as well.
func TestStoreInMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, last := keeping(t, nil)
		unkept, err := k.Pause(t.Context(), status.Pause{Reason: "a\nb", By: "uid 0", Until: time.Now().Add(time.Minute)})
		if err != nil || unkept == nil {
			t.Errorf("unkept %v, %v", unkept, err)
		}
		if p := last(); p == nil || p.Reason != "a b" || p.File != "" {
			t.Errorf("told %+v", p)
		}
		time.Sleep(2 * time.Minute)
		if p := last(); p == nil || !p.Over(time.Now()) {
			t.Errorf("told %+v when it was over", p)
		}
		if was, err := k.Resume(t.Context()); was != nil || err != nil {
			t.Errorf("resumed what did not stand: %+v, %v", was, err)
		}
	})
}

// TestStoreWaitsForNobody: who pauses is told so where the loop does not take it in time,
// and it is told again.
func TestStoreWaitsForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, _ := openDir(t)
		k := pause.New(dir, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := k.Pause(ctx, status.Pause{Reason: "stop", By: "uid 0"}); err == nil {
			t.Error("nobody took it, and it is said to stand")
		}
		ctx, cancel = context.WithCancel(t.Context())
		defer cancel()
		go k.Run(ctx)
		if p := <-k.Changes(); p == nil || p.Reason != "stop" {
			t.Errorf("told %+v", p)
		}
	})
}

// BenchmarkRead is what the daemon does each second.
func BenchmarkRead(b *testing.B) {
	dir, err := statedir.Open(filepath.Join(b.TempDir(), "state"))
	if err != nil {
		b.Fatal(err)
	}
	defer dir.Close()
	for b.Loop() {
		if p, err := pause.Read(dir); p != nil || err != nil {
			b.Fatal(p, err)
		}
	}
}
