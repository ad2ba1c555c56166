package holders

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/sock"
)

// hang makes a process hang when it is named, until the test ends: its name is a pipe that
// nobody writes.
func hang(t *testing.T, root string, pid int) {
	t.Helper()
	name := filepath.Join(root, strconv.Itoa(pid), "comm")
	if err := errors.Join(os.RemoveAll(name), unix.Mkfifo(name, 0o600)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Whoever still reads it goes on.
		if fd, err := unix.Open(name, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err == nil {
			unix.Close(fd)
		}
	})
}

// A process that hangs holds up none that comes before or after it, and is not taken for
// one that holds nothing.
func TestFindSkipping(t *testing.T) {
	const stat = "10 (x) S 1 10 10 0 -1 0 0 0 0 0 5 5 0 0 20 0 1 0 77 0 0\n"
	held := func(inode string) process {
		return process{comm: "x", stat: stat, fds: map[string]string{"3": "socket:[" + inode + "]"}}
	}
	root := fakeProc(t, map[int]process{2: {comm: "kthreadd", stat: kthreadd}, 10: held("100"), 11: held("101"), 12: held("102")})
	hang(t, root, 11)
	found, hung, err := FindSkipping(root, set([]uint32{100, 101, 102}), 50*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	want := map[uint32][]sock.Holder{100: {{PID: 10, Start: 77, Comm: "x"}}, 102: {{PID: 12, Start: 77, Comm: "x"}}}
	if diff := cmp.Diff(want, found.Holders); diff != "" {
		t.Errorf("holders (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]int{11}, hung); diff != "" {
		t.Errorf("hung (-want +got):\n%s", diff)
	}
	if found.Complete || found.Access.Refused != 1 || found.Access.First.PID != 11 {
		t.Errorf("%+v, want process 11 left out", found.Access)
	}
}

// Where too many hang, nothing is found, and that is said.
func TestFindSkippingTooMany(t *testing.T) {
	processes := make(map[int]process)
	for pid := range mostHung + 1 {
		processes[10+pid] = process{comm: "x", fds: map[string]string{"3": "socket:[100]"}}
	}
	root := fakeProc(t, processes)
	for pid := range processes {
		hang(t, root, pid)
	}
	found, hung, err := FindSkipping(root, set([]uint32{100}), 10*time.Millisecond)
	if err == nil || len(hung) != mostHung || len(found.Holders) > 0 {
		t.Errorf("%v, %d hung, %v", found, len(hung), err)
	}
}
