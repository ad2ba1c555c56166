package holders

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/sock"
)

// TestFindSelf scans in the real /proc for sockets of this process.
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
	usage, err := ReadUsage("/proc", os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	want := map[uint32][]sock.Holder{
		held: {{PID: os.Getpid(), Start: usage.Start, Comm: strings.TrimSpace(string(comm)), Exe: filepath.Base(exe)}},
	}
	if diff := cmp.Diff(want, got.Holders, cmpopts.IgnoreFields(sock.Holder{}, "Owner")); diff != "" {
		t.Errorf("holders (-want +got):\n%s", diff)
	}
	if got.Holders[held][0].Owner == nil {
		t.Error("nothing is known of where this process belongs")
	}
}

// TestUsageSelf reads what this process has used while it uses more.
func TestUsageSelf(t *testing.T) {
	read := func() (Usage, unix.Rusage) {
		t.Helper()
		u, err := ReadUsage("/proc", os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		var r unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
			t.Fatal(err)
		}
		return u, r
	}
	sum := func(r unix.Rusage) time.Duration { return time.Duration(r.Utime.Nano() + r.Stime.Nano()) }
	before, then := read()
	for now := then; sum(now)-sum(then) < 100*time.Millisecond; _, now = read() {
	}
	after, now := read()
	if diff := (sum(now) - sum(then)) - (after.CPU - before.CPU); diff < -3*tick || diff > 3*tick {
		t.Errorf("used %v by /proc, %v by getrusage(2)", after.CPU-before.CPU, sum(now)-sum(then))
	}
	if after.Start != before.Start || after.Start == 0 || after.Lived <= before.Lived || after.Lived < after.CPU/time.Duration(runtime.NumCPU())-tick {
		t.Errorf("first %+v, then %+v", before, after)
	}
}

// What waits for a CPU is seen to: threads that all want the one that there is get a
// part of it each.
func TestUsageWaited(t *testing.T) {
	if before, err := ReadUsage("/proc", os.Getpid()); err != nil || before.Waited == Unknown {
		t.Skipf("the kernel does not tell how long threads wait: %+v, %v", before, err)
	}
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		t.Fatal(err)
	}
	one := 0
	for !set.IsSet(one) {
		one++
	}
	set.Zero()
	set.Set(one)
	const threads, period = 3, 300 * time.Millisecond
	var ready, done, ended sync.WaitGroup
	begin, end := make(chan struct{}), make(chan struct{})
	ready.Add(threads)
	done.Add(threads)
	for range threads {
		ended.Go(func() {
			runtime.LockOSThread() // never unlocked: the thread ends with its affinity
			if err := unix.SchedSetaffinity(0, &set); err != nil {
				t.Error(err)
			}
			ready.Done()
			<-begin
			for began := time.Now(); time.Since(began) < period; {
			}
			done.Done()
			<-end // what a thread has waited ends with it
		})
	}
	ready.Wait()
	before, err1 := ReadUsage("/proc", os.Getpid())
	close(begin)
	done.Wait()
	after, err2 := ReadUsage("/proc", os.Getpid())
	close(end)
	ended.Wait()
	if waited := after.Waited - before.Waited; err1 != nil || err2 != nil || waited < period {
		t.Errorf("%d threads on one CPU have waited %v within %v: %v, %v", threads, waited, period, err1, err2)
	}
}

// Of a process of very many threads, and on kernels that do not tell, it is not known
// how long they have waited; a thread that ends meanwhile is nothing unusual.
func TestUsageWaitedUnknown(t *testing.T) {
	stat := func(threads int) string {
		return fmt.Sprintf("10 (x) S 1 2 2 0 -1 2129984 0 0 0 0 70 30 0 0 20 0 %d 0 25 0 0\n", threads)
	}
	root := fakeProc(t, map[int]process{10: {comm: "x", stat: stat(2)}, 11: {comm: "x", stat: stat(65)}, 12: {comm: "x", stat: stat(1)}})
	for path, text := range map[string]string{
		"10/task/10/schedstat": "1 200 3\n", "10/task/13/schedstat": "4 500 6\n",
		"11/task/11/schedstat": "1 200 3\n",
		"12/task/12/stat":      "",
	} {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for pid, want := range map[int]time.Duration{10: 700, 11: Unknown, 12: Unknown} {
		if u, err := ReadUsage(root, pid); err != nil || u.Waited != want {
			t.Errorf("process %d: %+v, %v; want %v waited", pid, u, err, want)
		}
	}
}

func TestUsageUnreadable(t *testing.T) {
	root := fakeProc(t, map[int]process{10: {comm: "x", stat: "10 (x) R 1 2"}, 11: {comm: "x", stat: ""}})
	for _, pid := range []int{10, 11, 12} {
		if u, err := ReadUsage(root, pid); err == nil {
			t.Errorf("process %d: %+v", pid, u)
		}
	}
}

// A process may give itself a name that scans like what follows it.
func TestUsageOfPretender(t *testing.T) {
	root := fakeProc(t, map[int]process{10: {comm: "x", stat: "10 (x) R 1 2 3 4 5 6 7 8 9 10 11 12) S 1 2 2 0 -1 2129984 0 0 0 0 70 30 0 0 20 0 1 0 25 0 0\n"}})
	u, err := ReadUsage(root, 10)
	if err != nil || u.CPU != time.Second || u.Start != 25 {
		t.Errorf("%+v, error %v", u, err)
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

// openMany opens as many sockets as this process may have, until the benchmark has
// ended, and returns how many, and the inodes of the first.
func openMany(b *testing.B, first int) (n int, inodes map[uint32]struct{}) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		b.Fatal(err)
	}
	n, inodes = int(min(limit.Cur, 20_000))-64, make(map[uint32]struct{})
	for i := range n {
		fd := socket(b)
		b.Cleanup(func() { unix.Close(fd) })
		if i < first {
			inodes[inodeOf(b, fd)] = struct{}{}
		}
	}
	return n, inodes
}

// BenchmarkFind walks the real /proc with as many sockets as this process may
// have open.
func BenchmarkFind(b *testing.B) {
	n, wanted := openMany(b, 1000)
	b.ReportAllocs()
	for b.Loop() {
		found, err := Find("/proc", wanted)
		if err != nil {
			b.Fatal(err)
		}
		if len(found.Holders) != len(wanted) {
			b.Fatalf("found %d holders of %d", len(found.Holders), len(wanted))
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/fd")
}
