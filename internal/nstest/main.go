package nstest

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// unavailable says why the tests of this process have no namespace of their own.
var unavailable error

// Main is the body of a TestMain: it runs the tests in private namespaces. Where
// there are none to be had it runs them all the same, and those that call Need
// are skipped.
func Main(m interface{ Run() int }) {
	inside, status, err := Enter()
	if err == nil && !inside {
		os.Exit(status)
	}
	unavailable = err
	os.Exit(m.Run())
}

// TB is the part of testing.TB that this package uses; it does not import
// testing, so that the demo can use the rest of it.
type TB interface {
	Helper()
	Fatal(args ...any)
	Skip(args ...any)
}

// Need skips a test that cannot do without private namespaces where there are
// none. With CI=true it fails instead: there, a test that did not run is a defect.
func Need(t TB) {
	t.Helper()
	if unavailable == nil {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("needs a network namespace of its own: ", unavailable)
	}
	t.Skip("needs a network namespace of its own: ", unavailable)
}

// Isolate gives the calling test a fresh network namespace, so that it can run
// in parallel with others. The test's goroutine is locked to a thread that ends
// with it. Sockets that other goroutines open belong to the old namespace, and
// only /proc/thread-self shows the new one.
func Isolate(t TB) {
	t.Helper()
	Need(t)
	runtime.LockOSThread() // never unlocked: the thread must not be reused
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal("unshare the network namespace: ", err)
	}
	if err := loopbackUp(); err != nil {
		t.Fatal(err)
	}
}

// WithoutCapabilities runs f on a thread that may do no more than its user.
func WithoutCapabilities(t TB, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with its capabilities lost
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			done <- err
			return
		}
		f()
	}()
	if err := <-done; err != nil {
		t.Fatal("drop capabilities: ", err)
	}
}
