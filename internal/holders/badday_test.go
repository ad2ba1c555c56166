package holders

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/sock"
)

// A process that has the PID of one that has ended is named by what it is itself, though it holds the same socket.
func TestPIDIsReused(t *testing.T) {
	fds := map[string]string{"3": "socket:[100]"}
	root := fakeProc(t, map[int]process{2: {comm: "kthreadd", stat: kthreadd}, 10: {comm: "before", stat: statOf(10, "S", 0, 1), fds: fds}})
	belongs(t, root, map[string]string{"10": "0::/system.slice/a.service\n"})
	f := NewFinder(root, nil)
	find := func(want sock.Holder) {
		t.Helper()
		found, err := f.Find(set([]uint32{100}))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(map[uint32][]sock.Holder{100: {want}}, found.Holders); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	find(sock.Holder{PID: 10, Start: 77, Comm: "before", Owner: inService("a.service")})
	dir := filepath.Join(root, "10")
	later := "10 (x) S 1 10 10 0 -1 0 0 0 0 0 5 5 0 0 20 0 1 0 99 0 0\n"
	err := errors.Join(os.WriteFile(filepath.Join(dir, "comm"), []byte("after\n"), 0o600), os.WriteFile(filepath.Join(dir, "stat"), []byte(later), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	belongs(t, root, map[string]string{"10": "0::/system.slice/b.service\n"})
	find(sock.Holder{PID: 10, Start: 99, Comm: "after", Owner: inService("b.service")})
}

// Processes that end while /proc is walked cost nothing: those that stay are found.
func TestFindWhileProcessesEnd(t *testing.T) {
	s := listening(t)
	inode := must(s.Inode())(t)
	stop, ended := make(chan struct{}), make(chan int)
	for range 2 {
		go func() {
			n := 0
			for {
				select {
				case <-stop:
					ended <- n
					return
				default:
					if exec.Command("true").Run() == nil {
						n++
					}
				}
			}
		}()
	}
	f := NewFinder("/proc", nil)
	walks := 0
	for begin := time.Now(); walks < 20 || time.Since(begin) < 200*time.Millisecond; walks++ {
		found, err := f.Find(set([]uint32{inode}))
		if err != nil {
			t.Fatal(err)
		}
		// Its children hold what it does until they execute something else.
		if held := found.Holders[inode]; !slices.ContainsFunc(held, func(h sock.Holder) bool { return h.PID == os.Getpid() }) {
			t.Fatalf("held by %+v", held)
		}
	}
	close(stop)
	if n := <-ended + <-ended; n == 0 {
		t.Error("no process has ended meanwhile")
	}
}

// A process may have 20,000 descriptors, or as many as it is allowed to: all are read.
func TestFindAllOfTwentyThousand(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	many := min(20_000, int(limit.Cur)-200)
	s := listening(t)
	for i := range many - 1 {
		fd, err := unix.FcntlInt(uintptr(s), unix.F_DUPFD_CLOEXEC, 100)
		if err != nil {
			t.Fatalf("descriptor %d: %v", i, err)
		}
		defer unix.Close(fd)
	}
	last := must(unix.FcntlInt(uintptr(socket(t)), unix.F_DUPFD_CLOEXEC, many))(t)
	defer unix.Close(last)
	found := must(Find("/proc", set([]uint32{must(s.Inode())(t), inodeOf(t, last)})))(t)
	if len(found.Holders) != 2 || len(found.Holders[inodeOf(t, last)]) != 1 {
		t.Errorf("of %d descriptors: %+v", many, found.Holders)
	}
	if used := must(ReadDescriptors("/proc", os.Getpid()))(t).Used; used < many {
		t.Errorf("%s descriptors, want over %s", strconv.Itoa(used), strconv.Itoa(many))
	}
}
