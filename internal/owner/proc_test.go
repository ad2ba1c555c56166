package owner

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/sock"
)

// TestFindSelf looks in the real /proc for sockets of this process.
func TestFindSelf(t *testing.T) {
	holder := socket(t)
	defer unix.Close(holder)
	held := inodeOf(t, holder)
	closed := socket(t)
	lost := inodeOf(t, closed)
	unix.Close(closed)

	got, err := Find("/proc", set([]uint32{held, lost}))
	if err != nil {
		t.Fatal(err)
	}
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	want := map[uint32][]sock.Owner{
		held: {{PID: os.Getpid(), Comm: strings.TrimSpace(string(comm)), Exe: filepath.Base(exe)}},
	}
	if diff := cmp.Diff(want, got.Owners); diff != "" {
		t.Errorf("owners (-want +got):\n%s", diff)
	}
}

func socket(tb testing.TB) int {
	tb.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal(err)
	}
	return fd
}

func inodeOf(tb testing.TB, fd int) uint32 {
	tb.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		tb.Fatal(err)
	}
	return uint32(st.Ino)
}

// BenchmarkFind walks the real /proc with as many sockets as this process may
// have open.
func BenchmarkFind(b *testing.B) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		b.Fatal(err)
	}
	n := int(min(limit.Cur, 20_000)) - 64
	wanted := make(map[uint32]struct{})
	for i := range n {
		fd := socket(b)
		defer unix.Close(fd)
		if i < 1000 {
			wanted[inodeOf(b, fd)] = struct{}{}
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		found, err := Find("/proc", wanted)
		if err != nil {
			b.Fatal(err)
		}
		if len(found.Owners) != len(wanted) {
			b.Fatalf("found %d owners of %d", len(found.Owners), len(wanted))
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/fd")
}
