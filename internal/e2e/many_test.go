package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// mountNamespaces makes network namespaces that nothing but a mount keeps, as `ip netns add`
// does.
func mountNamespaces(t *testing.T, n int) {
	t.Helper()
	dir := t.TempDir()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends in the last of them
		var err error
		for i := 0; i < n && err == nil; i++ {
			file := filepath.Join(dir, fmt.Sprint(i))
			err = os.WriteFile(file, nil, 0o600)
			if err == nil {
				err = unix.Unshare(unix.CLONE_NEWNET)
			}
			if err == nil {
				err = unix.Mount("/proc/thread-self/ns/net", file, "", unix.MS_BIND, "")
			}
		}
		done <- err
	}()
	t.Cleanup(func() {
		for i := range n {
			unix.Unmount(filepath.Join(dir, fmt.Sprint(i)), unix.MNT_DETACH)
		}
	})
	check(t, <-done)
}

// Five hundred namespaces delay no kill, and take little memory and few files.
func TestManyNamespaces(t *testing.T) {
	needEvents(t)
	mountNamespaces(t, 500)
	p := newPlace(t)
	began := time.Now()
	w := watch(t, allLeaks)
	t.Logf("it watches after %v", time.Since(began))
	for range 2 {
		late := p.dies(p.do("plain"), bound)
		t.Logf("killed %v late", late)
		if late > tooLate {
			t.Errorf("killed %v late", late)
		}
	}
	status := string(must(os.ReadFile(fmt.Sprintf("/proc/%d/status", w.cmd.Process.Pid)))(t))
	for line := range strings.Lines(status) {
		if strings.HasPrefix(line, "VmRSS") || strings.HasPrefix(line, "Threads") {
			t.Log(strings.TrimSpace(line))
		}
	}
	files := must(os.ReadDir(fmt.Sprintf("/proc/%d/fd", w.cmd.Process.Pid)))(t)
	if t.Logf("%d files", len(files)); len(files) > 501*8 {
		t.Errorf("%d files are open", len(files))
	}
}
