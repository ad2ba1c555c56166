package holders

import (
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
)

func TestMain(m *testing.M) {
	if os.Getenv(leaderEnv) != "" {
		loseLeader()
	}
	nstest.Main(m)
}

// deadHere finds what of this process is in no table, by sockets that are.
func deadHere(t *testing.T, tabled []uint32) []uint32 {
	t.Helper()
	dead, hung := FindDeadOf("/proc", []int{os.Getpid()}, set(tabled))
	if len(hung) > 0 {
		t.Fatalf("hung: %v", hung)
	}
	if len(dead) == 0 {
		return nil
	}
	var own unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &own); err != nil {
		t.Fatal(err)
	}
	if len(dead) != 1 || dead[0].PID != os.Getpid() || dead[0].Start == 0 || dead[0].Netns != uint32(own.Ino) {
		t.Fatalf("%+v, want this process", dead)
	}
	return dead[0].Inodes
}

// Only TCP sockets are found, of both families, and of MPTCP: of other protocols the tables
// tell nothing.
func TestFindDeadProtocols(t *testing.T) {
	before := deadHere(t, nil)
	var want []uint32
	open := func(tcp bool, domain, kind, protocol int) {
		t.Helper()
		fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, protocol)
		if err != nil {
			t.Logf("socket %d %d %d: %v", domain, kind, protocol, err)
			return
		}
		t.Cleanup(func() { unix.Close(fd) })
		if tcp {
			want = append(want, inodeOf(t, fd))
		}
	}
	open(true, unix.AF_INET, unix.SOCK_STREAM, 0)
	open(true, unix.AF_INET6, unix.SOCK_STREAM, 0)
	open(true, unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP)
	open(false, unix.AF_INET, unix.SOCK_DGRAM, 0)
	open(false, unix.AF_INET6, unix.SOCK_DGRAM, 0)
	open(false, unix.AF_UNIX, unix.SOCK_STREAM, 0)
	open(false, unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_SOCK_DIAG)
	open(false, unix.AF_PACKET, unix.SOCK_RAW, 0)
	open(false, unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	dup, err := unix.Dup(pair[0])
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dup)

	got := deadHere(t, before)
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("in no table (-want +got):\n%s", diff)
	}
	if got := deadHere(t, append(before, want...)); len(got) > 0 {
		t.Errorf("%v, where all are in a table", got)
	}
}

// A socket that has several descriptors is one.
func TestFindDeadOnce(t *testing.T) {
	before := deadHere(t, nil)
	s, err := nstest.New(nstest.V4, unix.IPPROTO_TCP)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	dup, err := unix.Dup(int(s))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dup)
	if got := deadHere(t, before); len(got) != 1 {
		t.Errorf("%v, want one", got)
	}
}

// Who ends, or may not be read, holds nothing that is known.
func TestFindDeadUnreadable(t *testing.T) {
	root := fakeProc(t, map[int]process{10: {comm: "x"}})
	dead, hung := FindDeadOf(root, []int{10, 11}, nil)
	if len(dead)+len(hung) > 0 {
		t.Errorf("%v, hung %v", dead, hung)
	}
	if _, _, err := FindDead("/nowhere", nil); err == nil {
		t.Error("no error without /proc")
	}
}

// A process that hangs is left out, and holds up none that come after it; where too many
// do, the rest is given up.
func TestBounded(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	run := func(pids []int, hangs func(pid int) bool) (took, hung []int) {
		hung = bounded(pids, 20*time.Millisecond, func(pid int) int {
			if hangs(pid) {
				<-release
			}
			return pid
		}, func(pid int) { took = append(took, pid) })
		return took, hung
	}
	took, hung := run([]int{1, 2, 3, 4, 5}, func(pid int) bool { return pid == 2 || pid == 5 })
	if diff := cmp.Diff([][]int{{1, 3, 4}, {2, 5}}, [][]int{took, hung}); diff != "" {
		t.Errorf("read and hung (-want +got):\n%s", diff)
	}
	var many []int
	for pid := range 2 * mostHung {
		many = append(many, pid)
	}
	took, hung = run(many, func(int) bool { return true })
	if len(took) > 0 || !slices.Equal(hung, many) {
		t.Errorf("read %v, hung %v", took, hung)
	}
}

// BenchmarkFindDead reads the real /proc with as many sockets as this process may have open,
// all of them in a table.
func BenchmarkFindDead(b *testing.B) {
	n, tabled := openMany(b, 1<<20)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := FindDead("/proc", tabled); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/fd")
}
