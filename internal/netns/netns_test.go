package netns

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
)

func TestMain(m *testing.M) {
	if os.Getenv(helperEnv) != "" {
		helper()
	}
	nstest.Main(m)
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fresh makes a namespace that nothing but the returned one refers to.
func fresh(t testing.TB) *Namespace {
	t.Helper()
	done := make(chan *Namespace)
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err != nil {
			failed <- err
			return
		}
		n, err := Self()
		if err != nil {
			failed <- err
			return
		}
		done <- n
	}()
	select {
	case err := <-failed:
		t.Fatal(err)
		return nil
	case n := <-done:
		made[n.Inode] = true
		t.Cleanup(func() { n.Close() })
		return n
	}
}

// TestCookie: each namespace has a cookie and an inode of its own.
func TestCookie(t *testing.T) {
	nstest.Isolate(t)
	cookie, inode := must(Cookie())(t), Inode()
	self := must(Self())(t)
	defer self.Close()
	if self.Cookie != cookie || self.Inode != inode || cookie == 0 || inode == 0 {
		t.Errorf("own namespace %d, %d, want %d, %d", self.Inode, self.Cookie, inode, cookie)
	}
	check(t, unix.Unshare(unix.CLONE_NEWNET))
	if other := must(Cookie())(t); other == cookie || Inode() == inode {
		t.Errorf("another namespace has cookie %d and inode %d as well", other, Inode())
	}
}

// TestDo: what is opened inside belongs there, and the thread comes back, whatever
// happens inside.
func TestDo(t *testing.T) {
	nstest.Isolate(t)
	here, there := Inode(), fresh(t)
	failed := errors.New("failed")
	inside := func() error {
		if got, cookie := Inode(), must(Cookie())(t); got != there.Inode || cookie != there.Cookie {
			t.Errorf("inside of %d, %d, want %d, %d", got, cookie, there.Inode, there.Cookie)
		}
		return failed
	}
	if err := there.Do(inside); err != failed {
		t.Errorf("Do returns %v, want the error of what it did", err)
	}
	if got := Inode(); got != here {
		t.Errorf("the thread is in %d afterwards, want %d", got, here)
	}
	func() {
		defer func() { _ = recover() }()
		_ = there.Do(func() error { panic("inside") })
	}()
	if got := Inode(); got != here {
		t.Errorf("the thread is in %d after a panic, want %d", got, here)
	}
	own := must(Self())(t)
	defer own.Close()
	check(t, there.Do(func() error { // and back, and in again
		return own.Do(func() error {
			if got := Inode(); got != here {
				t.Errorf("in %d, want the own %d", got, here)
			}
			return there.Do(func() error { return nil })
		})
	}))
	check(t, there.Close())
	for range 64 { // another file may have its descriptor now
		fresh(t)
	}
	if err := there.Do(func() error { t.Error("entered a namespace that was closed"); return nil }); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Do in what was closed: %v, want %v", err, os.ErrClosed)
	}
}

// TestDoUnprivileged: a thread that may not enter another namespace may be in its own.
func TestDoUnprivileged(t *testing.T) {
	nstest.Isolate(t)
	there := fresh(t)
	nstest.WithoutCapabilities(t, func() {
		own, err := Self()
		if err != nil {
			t.Error(err)
			return
		}
		defer own.Close()
		here := Inode()
		if err := own.Do(func() error { return nil }); err != nil {
			t.Errorf("the own namespace: %v", err)
		}
		err = there.Do(func() error { t.Error("entered"); return nil })
		if !errors.Is(err, errNotPermitted) || !errors.Is(err, unix.EPERM) {
			t.Errorf("another's: %v, want %v", err, errNotPermitted)
		}
		if Inode() != here {
			t.Error("the thread is elsewhere")
		}
	})
}

// TestDoNeverStrands: in a user namespace of its own, a thread may enter what belongs
// to that, and could not come back to the namespace that it began in.
func TestDoNeverStrands(t *testing.T) {
	nstest.Isolate(t)
	out := runHelper(t, "strand", func(a *helperAttr) {
		a.Cloneflags = unix.CLONE_NEWUSER // and no CLONE_NEWNET
	})
	if out != "refused, and stayed\n" {
		t.Errorf("the helper says %q", out)
	}
}

// descriptors is how many files this process has open.
func descriptors(t testing.TB) int {
	t.Helper()
	return len(must(filepath.Glob("/proc/self/fd/*"))(t))
}

// TestDoRaises: CAP_SYS_ADMIN is in effect while it is needed, where it is permitted.
func TestDoRaises(t *testing.T) {
	nstest.Isolate(t)
	there := fresh(t)
	self := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets, after [2]unix.CapUserData
	check(t, unix.Capget(&self, &sets[0]))
	sets[0].Effective = 0
	check(t, unix.Capset(&self, &sets[0]))
	check(t, there.Do(func() error {
		if Inode() != there.Inode {
			t.Errorf("in %d, want %d", Inode(), there.Inode)
		}
		return nil
	}))
	check(t, unix.Capget(&self, &after[0]))
	if after != sets {
		t.Errorf("capabilities %+v afterwards, want %+v", after, sets)
	}
}

// TestDoOwned: root enters what another user namespace owns, below its own.
func TestDoOwned(t *testing.T) {
	nstest.Isolate(t)
	f := newFinder(t)
	inode, _ := process(t, "sleep", func(a *helperAttr) { a.Cloneflags = unix.CLONE_NEWUSER | unix.CLONE_NEWNET })
	found := expect(t, f, "a process in a user namespace", []uint32{inode}, nil)
	check(t, the(found, inode).Do(func() error {
		if Inode() != inode {
			t.Errorf("in %d, want %d", Inode(), inode)
		}
		return nil
	}))
}
