package capture_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sockdog/sockdog/internal/capture"
	"github.com/sockdog/sockdog/internal/holders"
	"github.com/sockdog/sockdog/internal/recording"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// source shows sockets by the number of the scan.
func source(t *testing.T, takes time.Duration, show func(scan int) ([]sock.Socket, error)) capture.Source {
	now, err := sock.Clock()
	if err != nil {
		t.Fatal(err)
	}
	scan := 0
	return capture.Source{
		Now: now,
		Scan: func(q sock.Query, each func(*sock.Socket, sock.Instant)) error {
			scan++
			time.Sleep(takes)
			sockets, err := show(scan)
			for i := range sockets {
				if q.Where.Eval(&sockets[i].Conn) != ssfilter.True {
					t.Errorf("the query leaves out %+v", sockets[i])
				}
				each(&sockets[i], now())
			}
			return err
		},
		Ports:    func() (map[uint32]sock.Ports, error) { return nil, errors.New("no /proc") },
		Pressure: func() (sock.Pressure, error) { return sock.Pressure{HasOrphans: true, Orphans: 5}, nil },
		Means:    func(s *sock.Socket) bool { return s.ID.Cookie != 99 },
	}
}

func socket(cookie uint64) sock.Socket {
	s := sock.Socket{ID: sock.ID{Family: 2, Cookie: cookie}, Conn: ssfilter.Conn{State: ssfilter.CloseWait}, Inode: uint32(cookie)}
	s.Src, s.Dst = s.ID.Local(), s.ID.Peer()
	return s
}

var one = func(int) ([]sock.Socket, error) { return []sock.Socket{socket(1), socket(99)}, nil }

// replayed returns when the scans of a recording were, since the first, and how many sockets
// each shows.
func replayed(t *testing.T, path string) (at []time.Duration, sockets []int, err error) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := recording.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var first sock.Instant
	for {
		scan, err := r.Next()
		if err != nil {
			return at, sockets, err
		}
		if first == 0 {
			first = scan.Sent
		}
		at, sockets = append(at, scan.Sent.Sub(first)), append(sockets, r.Len())
	}
}

func record(t *testing.T, ctx context.Context, path string, from capture.Source, p capture.Plan) (capture.Progress, error) {
	t.Helper()
	f, err := capture.Create(path, false)
	if err != nil {
		t.Fatal(err)
	}
	return capture.Record(ctx, f, recording.Header{}, nil, from, p, func(capture.Progress, error) {})
}

func TestRecordsForATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "a.rec")
		done, err := record(t, t.Context(), path, source(t, 10*time.Millisecond, one), capture.Plan{For: 12 * time.Second, Every: 5 * time.Second, MaxSize: 1 << 20})
		if err != nil || done.Scans != 4 || done.Sockets != 1 {
			t.Errorf("%+v, %v", done, err)
		}
		at, sockets, err := replayed(t, path)
		want := []time.Duration{0, 5 * time.Second, 10 * time.Second, 12 * time.Second}
		if err != io.EOF || len(at) != len(want) {
			t.Fatalf("scans at %v, %v", at, err)
		}
		for i := range at {
			if at[i] != want[i] || sockets[i] != 1 {
				t.Errorf("scan %d at %v of %d sockets, want it at %v of 1", i, at[i], sockets[i], want[i])
			}
		}
		if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
			t.Errorf("the file is %v, %v", info.Mode(), err)
		}
		if _, err := os.Stat(path + ".partial"); !errors.Is(err, os.ErrNotExist) {
			t.Error("the beginning is there beside the whole")
		}
	})
}

// Scans that take longer than the time between two follow each other, and are not made up for.
func TestSlowScans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "a.rec")
		_, err := record(t, t.Context(), path, source(t, 3*time.Second, one), capture.Plan{For: 10 * time.Second, Every: time.Second, MaxSize: 1 << 20})
		if at, _, _ := replayed(t, path); err != nil || len(at) != 4 || at[3] != 9*time.Second {
			t.Errorf("scans at %v, %v", at, err)
		}
	})
}

func TestFailedScansAreLeftOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "a.rec")
		from := source(t, 0, func(scan int) ([]sock.Socket, error) {
			if scan == 2 {
				return []sock.Socket{socket(2)}, errors.New("the dump was cut short")
			}
			return one(scan)
		})
		done, err := record(t, t.Context(), path, from, capture.Plan{For: 10 * time.Second, Every: 5 * time.Second, MaxSize: 1 << 20})
		if err != nil || done.Scans != 2 || done.Failed != 1 {
			t.Errorf("%+v, %v", done, err)
		}
		if at, sockets, _ := replayed(t, path); len(at) != 2 || at[1] != 10*time.Second || sockets[1] != 1 {
			t.Errorf("scans at %v of %v sockets", at, sockets)
		}
	})
}

// Where the first scan fails there is nothing to record, and no file.
func TestFirstScanFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		from := source(t, 0, func(int) ([]sock.Socket, error) { return nil, errors.New("no netlink") })
		_, err := record(t, t.Context(), filepath.Join(dir, "a.rec"), from, capture.Plan{For: 10 * time.Second, Every: 5 * time.Second, MaxSize: 1 << 20})
		if err == nil || err.Error() != "no netlink" {
			t.Errorf("error %v", err)
		}
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Errorf("%v is left", left)
		}
	})
}

// A signal ends a recording, which is whole.
func TestInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "a.rec")
		ctx, cancel := context.WithTimeout(t.Context(), 12*time.Second)
		defer cancel()
		done, err := record(t, ctx, path, source(t, 0, one), capture.Plan{For: time.Hour, Every: 5 * time.Second, MaxSize: 1 << 20})
		if at, _, end := replayed(t, path); err != nil || done.Scans != 3 || len(at) != 3 || end != io.EOF {
			t.Errorf("%+v, %v; scans at %v, %v", done, err, at, end)
		}
	})
}

// A recording stays within its size, and is whole.
func TestMaxSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "a.rec")
		from := source(t, 0, func(scan int) (all []sock.Socket, err error) {
			for i := range 100 {
				all = append(all, socket(uint64(scan*10007+i*i*7919)))
			}
			return all, nil
		})
		done, err := record(t, t.Context(), path, from, capture.Plan{For: time.Hour, Every: time.Second, MaxSize: 16 << 10})
		if err == nil || !strings.Contains(err.Error(), "--max-size (16.0 KiB)") {
			t.Errorf("error %v", err)
		}
		info, statErr := os.Stat(path)
		if statErr != nil || info.Size() != done.Size || info.Size() > 16<<10 || info.Size() < 8<<10 {
			t.Errorf("%v: %d bytes, said to be %d", statErr, info.Size(), done.Size)
		}
		if at, _, end := replayed(t, path); end != io.EOF || len(at) != done.Scans {
			t.Errorf("%d scans of %d, %v", len(at), done.Scans, end)
		}
	})
}

// A full disk ends a recording, of which every whole scan can be read.
func TestDiskFull(t *testing.T) {
	limit := syscall.Rlimit{}
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "a.rec")
	from := source(t, 0, func(scan int) (all []sock.Socket, err error) {
		for i := range 100 {
			all = append(all, socket(uint64(scan*10007+i*i*7919)))
		}
		if scan == 3 {
			// A file that may not grow fails as one on a full disk does, within a frame.
			info, err := os.Stat(path + ".partial")
			if err != nil {
				t.Fatal(err)
			}
			full := syscall.Rlimit{Cur: uint64(info.Size() + 20), Max: limit.Max}
			if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &full); err != nil {
				t.Fatal(err)
			}
		}
		return all, nil
	})
	defer syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit)
	done, err := record(t, t.Context(), path, from, capture.Plan{For: time.Hour, Every: time.Millisecond, MaxSize: 1 << 30})
	syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit)
	if !errors.Is(err, syscall.EFBIG) || done.Scans != 2 {
		t.Errorf("%+v, %v", done, err)
	}
	if at, _, end := replayed(t, path); len(at) != 2 || end != io.EOF { // the end takes less than the scan that did not fit
		t.Errorf("%d scans, %v", len(at), end)
	}
}

func TestHolders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "a.rec")
		from := source(t, 0, one)
		from.Holders = func(inodes map[uint32]struct{}) (holders.Found, map[recording.Process]float64, error) {
			if _, asked := inodes[1]; !asked || len(inodes) != 1 {
				t.Errorf("asked for the holders of %v", inodes)
			}
			return holders.Found{Holders: map[uint32][]sock.Holder{1: {{PID: 7, Comm: "shop"}}}, Complete: true}, nil, nil
		}
		if _, err := record(t, t.Context(), path, from, capture.Plan{For: time.Second, Every: 5 * time.Second, MaxSize: 1 << 20}); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		r, err := recording.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		scan, err := r.Next()
		if held := r.HoldersOf(1); err != nil || !scan.Complete || len(held) != 1 || held[0].Comm != "shop" {
			t.Errorf("%v, held by %+v", err, held)
		}
		if scan.Ports != nil || scan.Pressure == nil || scan.Pressure.Orphans != 5 {
			t.Errorf("ports %v, pressure %+v", scan.Ports, scan.Pressure)
		}
	})
}

// A file that is there is overwritten with force alone, even if it came meanwhile; one that is
// being written is not.
func TestOverwrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.rec")
	if err := os.WriteFile(path, []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := capture.Create(path, false); err == nil || !strings.Contains(err.Error(), "--force") {
		t.Errorf("error %v", err)
	}
	f, err := capture.Create(path, true)
	if err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(path); string(text) != "precious" {
		t.Errorf("%q is there before the recording is whole", text)
	}
	if _, err := capture.Create(filepath.Join(dir, "a.rec"), false); err == nil {
		t.Error("two recordings are written to one file")
	}
	if err := f.Keep(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Size() != 0 || info.Mode() != 0o600 {
		t.Errorf("%v %v, %v", info.Size(), info.Mode(), err)
	}
	other := filepath.Join(dir, "b.rec")
	if f, err = capture.Create(other, false); err != nil {
		t.Fatal(err)
	}
	if _, err := capture.Create(other, false); err == nil || !strings.Contains(err.Error(), ".partial is there") {
		t.Errorf("error %v", err)
	}
	if err := os.WriteFile(other, []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := f.Keep(); err == nil || !strings.Contains(err.Error(), ".partial") {
		t.Errorf("error %v", err)
	}
	if text, _ := os.ReadFile(other); string(text) != "precious" {
		t.Errorf("what came meanwhile is %q", text)
	}
	third := filepath.Join(dir, "d.rec")
	first, err := capture.Create(third, false)
	if err != nil {
		t.Fatal(err)
	}
	second, err := capture.Create(third, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Keep(); err == nil || !strings.Contains(err.Error(), "--force") {
		t.Errorf("error %v", err)
	}
	if err := second.Keep(); err != nil {
		t.Error(err)
	}
	link := filepath.Join(dir, "c.rec")
	if err := os.Symlink(other, link+".partial"); err != nil {
		t.Fatal(err)
	}
	if _, err := capture.Create(link, false); err == nil {
		t.Error("a symbolic link was followed")
	}
}
