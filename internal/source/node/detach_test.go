package node_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
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

// exclude attaches a program that allows no other beside it, until release.
func exclude(t *testing.T) (release func()) {
	t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SockOps, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(string(own))
	if err != nil {
		t.Fatal(err)
	}
	if err := link.RawAttachProgram(link.RawAttachProgramOptions{Target: int(dir.Fd()), Program: program, Attach: ebpf.AttachCGroupSockOps}); err != nil {
		t.Fatal(err)
	}
	release = sync.OnceFunc(func() {
		err := link.RawDetachProgram(link.RawDetachProgramOptions{Target: int(dir.Fd()), Program: program, Attach: ebpf.AttachCGroupSockOps})
		if err := errors.Join(err, dir.Close(), program.Close()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(release)
	return release
}

// Where the kernel refuses to attach the programs, a source that must have events is an error;
// another finds all by sock_diag, says why once, and has events when they are to be had.
func TestRefused(t *testing.T) {
	need(t)
	var later atomic.Int64
	real, err := sock.Clock()
	if err != nil {
		t.Fatal(err)
	}
	release := exclude(t)
	const why = "a program is attached that allows no other beside it"
	if s, err := node.Open(node.Config{Now: real, Kind: node.Events, ProcRoot: "/proc", Cgroup: string(own)}); err == nil {
		s.Close()
		t.Error("it must have events, and does without")
	} else if !errors.Is(err, node.ErrNoEvents) || !strings.Contains(err.Error(), why) {
		t.Errorf("it says %q", err)
	}

	s, said := open(t, node.Config{Kind: node.Auto, Now: func() sock.Instant { return real().Add(time.Duration(later.Load())) }})
	s.Want(closeWait)
	await(t, "the reason is told", func() bool { return strings.Contains(s.State().Reason, why) })
	leak, err := nstest.CloseWait(loopback, nstest.ServerSide, 2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { leak.Close() })
	x := scanner(t, s)
	if n := len(scan(t, x, closeWait)[s.Inode()]); n != 2 || s.State().Kind != node.SockDiag {
		t.Errorf("%d sockets from %s, want 2 from sock_diag", n, s.State().Kind)
	}
	if n := said.count("sockets come from"); n != 1 {
		t.Errorf("it was said %d times: %v", n, said.lines)
	}
	release()
	later.Add(int64(2 * time.Minute))
	s.Want(closeWait)
	await(t, "events are had", func() bool { return s.State().Kind == node.Events && s.State().Reason == "" })
}
