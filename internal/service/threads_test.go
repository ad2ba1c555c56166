package service

import (
	"os"
	"runtime"
	"testing"
)

// TestReserveThreads: the threads are there afterwards, for whoever needs one, and
// they are few on a host with many processors, too.
func TestReserveThreads(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(128))
	reserveThreads()
	if n := spareThreads + runtime.GOMAXPROCS(0); n > 40 {
		t.Errorf("%d threads are made", n)
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	if want := spareThreads + runtime.GOMAXPROCS(0); len(tasks) < want {
		t.Errorf("%d threads, want at least %d", len(tasks), want)
	}
}
