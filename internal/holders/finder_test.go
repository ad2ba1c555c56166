package holders

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/sock"
)

// What is new behind a new descriptor of who held something before is found without
// a walk, and nothing else is.
func TestFindNew(t *testing.T) {
	const start = "10 (leaky) S 1 10 10 0 -1 0 0 0 0 0 5 5 0 0 20 0 1 0 77 0 0\n"
	root := fakeProc(t, map[int]process{
		2:  {comm: "kthreadd", stat: kthreadd},
		10: {comm: "leaky", stat: start, fds: map[string]string{"3": "socket:[100]", "4": "/dev/null", "2000000": "/dev/null"}},
		11: {comm: "other", fds: map[string]string{"3": "/dev/null"}},
	})
	link := func(pid, fd int, to string) {
		t.Helper()
		name := filepath.Join(root, strconv.Itoa(pid), "fd", strconv.Itoa(fd))
		os.Remove(name)
		if to == "" {
			return
		}
		if err := os.Symlink(to, name); err != nil {
			t.Fatal(err)
		}
	}
	leaky := []sock.Holder{{PID: 10, Start: 77, Comm: "leaky"}}
	f := NewFinder(root, nil)
	if _, err := f.FindNew(set([]uint32{100})); err == nil {
		t.Error("no error where this process is not shown")
	}
	self := strconv.Itoa(os.Getpid())
	if err := errors.Join(os.MkdirAll(filepath.Join(root, self, "fd"), 0o700), os.Symlink(self, filepath.Join(root, "self"))); err != nil {
		t.Fatal(err)
	}
	link(os.Getpid(), 3, "socket:[99]")
	scan := func(what string, find func(map[uint32]struct{}) (Found, error), wanted []uint32, want map[uint32][]sock.Holder) {
		t.Helper()
		got, err := find(set(wanted))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got.Holders); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	none := map[uint32][]sock.Holder{}
	scan("before a walk", f.FindNew, []uint32{99, 100}, map[uint32][]sock.Holder{99: {{PID: os.Getpid()}}})
	scan("the walk", f.Find, []uint32{100}, map[uint32][]sock.Holder{100: leaky})
	scan("what is not new", f.FindNew, []uint32{100}, map[uint32][]sock.Holder{100: leaky})

	link(10, 5, "socket:[101]")
	link(10, 2000001, "socket:[102]")
	link(11, 5, "socket:[103]")
	link(10, 4, "socket:[104]") // the number was another file's
	scan("new ones", f.FindNew, []uint32{101, 102, 103, 104}, map[uint32][]sock.Holder{101: leaky, 102: leaky, 104: leaky})
	link(10, 5, "socket:[106]") // the number was another socket's
	scan("behind another socket's number", f.FindNew, []uint32{106}, none)
	scan("what was there, and is no more", f.FindNew, []uint32{101}, none)
	scan("and was looked at in vain", f.FindNew, []uint32{106}, map[uint32][]sock.Holder{106: leaky})

	link(10, 5, "")
	scan("while a number is free", f.FindNew, []uint32{106}, none)
	link(10, 5, "socket:[105]")
	scan("behind a number that was free", f.FindNew, []uint32{105}, map[uint32][]sock.Holder{105: leaky})
	link(10, 4, "socket:[107]")
	scan("behind another socket's number", f.FindNew, []uint32{107}, none)
	scan("the next walk", f.Find, []uint32{107}, map[uint32][]sock.Holder{107: leaky})

	// One that holds nothing any more is not read for what is new.
	for range maxIdle - 1 {
		scan("a walk for something else", f.Find, []uint32{1}, none)
	}
	scan("a walk too many for something else", f.Find, []uint32{1}, none)
	link(10, 6, "socket:[108]")
	scan("what is new in one that holds nothing", f.FindNew, []uint32{108}, none)

	// What led to it in the last walk is enough.
	scan("what was there", f.FindNew, []uint32{105}, map[uint32][]sock.Holder{105: leaky})
	scan("what is new in one that holds something again", f.FindNew, []uint32{108}, map[uint32][]sock.Holder{108: leaky})
	if err := os.WriteFile(filepath.Join(root, "10", "stat"), []byte("10 (next) S 1 10 10 0 -1 0 0 0 0 0 5 5 0 0 20 0 1 0 78 0 0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	scan("another process with that PID", f.FindNew, []uint32{105}, map[uint32][]sock.Holder{105: {{PID: 10, Start: 78, Comm: "leaky"}}})
	if err := os.RemoveAll(filepath.Join(root, "10")); err != nil {
		t.Fatal(err)
	}
	scan("after its end", f.FindNew, []uint32{105}, none)
}

// TestFindNewSelf finds a socket of this process that it opens after a walk.
func TestFindNewSelf(t *testing.T) {
	old := socket(t)
	defer unix.Close(old)
	f := NewFinder("/proc", nil)
	if _, err := f.Find(set([]uint32{inodeOf(t, old)})); err != nil {
		t.Fatal(err)
	}
	added := socket(t)
	defer unix.Close(added)
	inode := inodeOf(t, added)
	got, err := f.FindNew(set([]uint32{inode}))
	if err != nil || len(got.Holders[inode]) != 1 || got.Holders[inode][0].PID != os.Getpid() {
		t.Errorf("%+v, %v", got, err)
	}
}

// BenchmarkFindNew finds one new socket beside as many old ones as this process may
// have open.
func BenchmarkFindNew(b *testing.B) {
	n, wanted := openMany(b, 1)
	f := NewFinder("/proc", nil)
	if _, err := f.Find(wanted); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		fd := socket(b)
		inode := inodeOf(b, fd)
		found, err := f.FindNew(map[uint32]struct{}{inode: {}})
		if err != nil || len(found.Holders) != 1 {
			b.Fatalf("%+v, %v", found, err)
		}
		unix.Close(fd)
		// Its number is free in the next listing.
		if _, err := f.FindNew(map[uint32]struct{}{inode: {}}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(2*n), "ns/fd")
}

// Where the memory limit has no room for the descriptors of all, those of some are found, and
// the others count as processes that cannot be read.
func TestFindWithinRoom(t *testing.T) {
	root := fakeProc(t, map[int]process{
		2:  {comm: "kthreadd", stat: kthreadd},
		10: {comm: "one", fds: map[string]string{"3": "socket:[100]", "4": "/dev/null"}},
		11: {comm: "other", fds: map[string]string{"3": "socket:[101]", "4": "/dev/null"}},
	})
	dir, err := os.Stat(filepath.Join(root, "10", "fd"))
	if err != nil {
		t.Fatal(err)
	}
	f := NewFinder(root, nil)
	for room, want := range map[int]int{1: 0, int(dir.Size()) + 1: 1, int(dir.Size()) + 2: 2, 0: 2} {
		f.Room = room
		found, err := f.Find(set([]uint32{100, 101}))
		if err != nil {
			t.Fatal(err)
		}
		if a := found.Access; len(found.Holders) != want || a.Crowded != (want < 2) || a.Refused != 2-want || found.Complete != (want == 2) {
			t.Errorf("room for %d: found %v, %+v, want those of %d", room, found.Holders, a, want)
		}
	}
}

// A process that ends while it is read takes no room, and is none that cannot be read.
func TestFindEnded(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	dir, err := openDir(unix.AT_FDCWD, "/proc/"+strconv.Itoa(cmd.Process.Pid)+"/fd")
	cmd.Process.Kill()
	cmd.Wait()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dir)
	for _, room := range []int{0, 1000} {
		f := NewFinder("/proc", nil)
		f.Room = room
		_, err := f.walk(nil, false, func(w *walk) error {
			if n, err := w.table(dir, cmd.Process.Pid); n != 0 || err != nil {
				t.Errorf("room for %d: %d descriptors, %v", room, n, err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
