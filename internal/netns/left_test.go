package netns

import (
	"fmt"
	"os/exec"
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
		if err != nil || len(found.Appeared)+len(found.Gone) > 0 {
			t.Errorf("appeared %d, gone %d, %v", inodes(found.Appeared), inodes(found.Gone), err)
		}
		if found.Refused == 0 || found.Unentered != 1 {
			t.Errorf("%d processes refused, %d namespaces not entered", found.Refused, found.Unentered)
		}
		left := fmt.Sprint(found.LeftOut())
		for _, want := range []string{"CAP_SYS_PTRACE", "1 network namespaces cannot be entered: CAP_SYS_ADMIN"} {
			if !strings.Contains(left, want) {
				t.Errorf("left out: %s; want %s", left, want)
			}
		}
	})
	if found := find(t, f); len(found.Appeared) != 2 || found.Unentered != 0 {
		t.Errorf("with capabilities appeared %d, want 2; %v", inodes(found.Appeared), found.LeftOut())
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
	before := descriptors(t)
	made := make(chan error)
	go func() {
		for range 200 {
			cmd := exec.Command("true")
			cmd.SysProcAttr = &helperAttr{Cloneflags: unix.CLONE_NEWNET}
			if err := cmd.Run(); err != nil {
				made <- err
				return
			}
		}
		close(made)
	}()
	appeared, gone := 0, 0
	look := func() {
		found := must(f.Find())(t)
		if found.failed != nil || found.Unentered > 0 {
			t.Errorf("left out: %v", found.LeftOut())
		}
		appeared += len(found.Appeared)
		gone += len(found.Gone)
		for _, n := range found.Gone {
			check(t, n.Close())
		}
	}
	start := time.Now()
	for done := false; !done; {
		select {
		case err := <-made:
			check(t, err)
			done = true
		default:
		}
		look()
	}
	look()
	t.Logf("200 namespaces in %v, %d of them seen", time.Since(start), appeared)
	if appeared == 0 || appeared != gone {
		t.Errorf("%d appeared, %d are gone", appeared, gone)
	}
	if got := descriptors(t); got != before {
		t.Errorf("%d descriptors, want %d", got, before)
	}
}

// TestFindHostMounts: a pod that shares the processes of its host sees what is mounted
// there, in the mount namespace of process 1.
func TestFindHostMounts(t *testing.T) {
	nstest.Need(t)
	out := runHelper(t, "host", func(a *helperAttr) {
		a.Cloneflags = unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET
	})
	if out != "1 appeared, called blue\n" {
		t.Errorf("the pod says %q", out)
	}
}
