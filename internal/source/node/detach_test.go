package node_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/source/node"
)

// detach ends the attachment of this process's programs, as "bpftool link detach" does.
func detach(t *testing.T) {
	t.Helper()
	infos, err := filepath.Glob("/proc/self/fdinfo/*")
	if err != nil {
		t.Fatal(err)
	}
	detached := 0
	for _, info := range infos {
		text, err := os.ReadFile(info)
		if err != nil || !strings.Contains(string(text), "link_type:\tcgroup") {
			continue
		}
		fd, err := strconv.ParseUint(filepath.Base(info), 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		attr := struct{ link, flags uint32 }{link: uint32(fd)}
		if _, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_LINK_DETACH, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr)); errno != 0 {
			t.Fatal("detach: ", errno)
		}
		detached++
	}
	if detached != 1 {
		t.Fatalf("%d links to a cgroup, want one", detached)
	}
}

// Where somebody else has ended the attachment, the next scan finds by sock_diag what the table
// lacks from then on; that is said once, with the reason, and later the programs are attached anew.
func TestDetachedByOthers(t *testing.T) {
	var later atomic.Int64
	real, err := sock.Clock()
	if err != nil {
		t.Fatal(err)
	}
	p := newPlace(t)
	s, said := openEvents(t, p, node.Config{All: true, Now: func() sock.Instant { return real().Add(time.Duration(later.Load())) }})
	x := scanner(t, s)
	p.leak(1)
	if n := len(scan(t, x, closeWait)[p.Inode]); n != 1 {
		t.Fatalf("%d sockets before, want 1", n)
	}
	detach(t)
	p.leak(2)
	for range 3 {
		if n := len(scan(t, x, closeWait)[p.Inode]); n != 3 {
			t.Errorf("%d sockets, want 3", n)
		}
	}
	const why = "another has detached the program from the cgroup"
	await(t, "it is told that there are no events", func() bool { return s.State().Kind == node.SockDiag })
	if state := s.State(); state.Reason != why {
		t.Errorf("the reason is %q, want %q", state.Reason, why)
	}
	if n := said.count(fmt.Sprintf("WARN sockets come from sock_diag; events have failed [error=%s]", why)); n != 1 {
		t.Errorf("it was said %d times: %v", n, said.lines)
	}
	later.Store(int64(2 * time.Minute))
	s.Discover()
	awaitFollowed(t, s, p)
	p.leak(1)
	exact := 0
	found := scan(t, x, closeWait)[p.Inode]
	for _, k := range found {
		if k.Entered != 0 {
			exact++
		}
	}
	if len(found) != 4 || exact != 1 {
		t.Errorf("attached anew: %d sockets, %d of them exact, want 4 and 1", len(found), exact)
	}
}
