package netns

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
)

// TestFindUnprivileged: what may not be seen, and what may not be entered, is counted,
// with the capability that is missing.
func TestFindUnprivileged(t *testing.T) {
	nstest.Isolate(t)
	privateMounts(t)
	f := newFinder(t)
	process(t, "sleep", newNetns)
	mountFresh(t, "/run/netns/blue")
	f.mounts[0].root = fmt.Sprintf("/proc/self/task/%d/root", unix.Gettid()) // another thread has others
	nstest.WithoutCapabilities(t, func() {
		found, err := f.Find()
		if err != nil || len(inodes(found.Appeared))+len(inodes(found.Gone)) > 0 {
			t.Errorf("appeared %d, gone %d, %v", inodes(found.Appeared), inodes(found.Gone), err)
		}
		if found.Refused == 0 || found.Unentered != 1 {
			t.Errorf("%d processes refused, %d namespaces not entered", found.Refused, found.Unentered)
		}
		left := fmt.Sprint(found.LeftOut())
		for _, want := range []string{"CAP_SYS_PTRACE", "network namespaces that cannot be entered: 1: CAP_SYS_ADMIN"} {
			if !strings.Contains(left, want) {
				t.Errorf("left out: %s; want %s", left, want)
			}
		}
	})
	if found := find(t, f); len(inodes(found.Appeared)) != 2 || found.Unentered != 0 {
		t.Errorf("with capabilities appeared %d, want 2; %v", inodes(found.Appeared), found.LeftOut())
	}
}

// TestFindOthersHidden: where /proc hides the processes of others, nobody takes what is found for all
// there is.
func TestFindOthersHidden(t *testing.T) {
	nstest.Isolate(t)
	hiding := t.TempDir()
	check(t, os.Symlink("/proc/thread-self", filepath.Join(hiding, "thread-self")))
	own := must(Self())(t)
	defer own.Close()
	f := must(NewFinder(hiding, own))(t)
	defer f.Close()
	found := find(t, f)
	if left := fmt.Sprint(found.LeftOut()); !strings.Contains(left, "processes of other users are hidden") || found.Few() {
		t.Errorf("left out: %s; a few: %v", left, found.Few())
	}
	if found := find(t, newFinder(t)); found.Hidden {
		t.Error("/proc shows process 1, and hides it")
	}
}

// TestFindTooManyFiles: what cannot be opened for want of descriptors is said, and
// appears once there are some.
func TestFindTooManyFiles(t *testing.T) {
	out := runHelper(t, "files", newNetns)
	if out != "1 left out, then 1 appeared\n" {
		t.Errorf("the helper says %q", out)
	}
}

// TestFindChurn: namespaces that come and go by hundreds in a second are no error, and
// none is left over.
func TestFindChurn(t *testing.T) {
	nstest.Isolate(t)
	f := newFinder(t)
	const many = 200
	links := make(chan string, many)
	failed := make(chan error, 1)
	go func() {
		defer close(links)
		for range many {
			cmd := exec.Command("readlink", "/proc/self/ns/net")
			cmd.SysProcAttr = &helperAttr{Cloneflags: unix.CLONE_NEWNET}
			link, err := cmd.Output()
			if err != nil {
				failed <- err
				return
			}
			links <- strings.TrimSpace(string(link))
		}
	}()
	open := map[uint32]bool{}
	seen := 0
	look := func() {
		found := must(f.Find())(t)
		if found.failed != nil || found.Unentered > 0 {
			t.Errorf("left out: %v", found.LeftOut())
		}
		for _, n := range found.Appeared {
			open[n.Inode] = true
			seen++
			t.Cleanup(func() { n.Close() })
		}
		for _, n := range found.Gone {
			delete(open, n.Inode)
			check(t, n.Close())
		}
	}
	start := time.Now()
	for len(links) < many && len(failed) == 0 {
		look()
	}
	t.Logf("%d namespaces in %v, %d seen", many, time.Since(start), seen)
	look()
	if seen == 0 {
		t.Error("no namespace appeared")
	}
	for link := range links {
		if inode := inodeOf([]byte(link)); open[inode] {
			t.Errorf("namespace %d has not gone", inode)
		}
	}
	if len(failed) > 0 {
		t.Fatal(<-failed)
	}
}

// TestFindHostMounts: a pod that shares the processes of its host sees what is mounted
// there, in the mount namespace of process 1.
func TestFindHostMounts(t *testing.T) {
	nstest.Need(t)
	out := runHelper(t, "host", func(a *helperAttr) {
		a.Cloneflags = unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET
	})
	if out == noProc {
		t.Skip("needs the right to mount /proc")
	}
	if out != "1 appeared, called blue\n" {
		t.Errorf("the pod says %q", out)
	}
}
