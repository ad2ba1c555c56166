package service

import (
	"os"
	"runtime"
	"testing"
)

// TestReserveThreads: the threads are there afterwards, for whoever needs one.
func TestReserveThreads(t *testing.T) {
	reserveThreads()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	if want := spareThreads + runtime.GOMAXPROCS(0); len(tasks) < want {
		t.Errorf("%d threads, want at least %d", len(tasks), want)
	}
}
