package service

import (
	"runtime"
	"sync"
)

// spareThreads is how many threads sockdog has beyond one for each processor: the workers
// have some ten of their own, and a few more wait at any time in system calls that block.
const spareThreads = 28

// mostProcessors is how many processors sockdog uses at once, at most: it has no work for more,
// and on a host with many the runtime would make a thread for each.
const mostProcessors = 8

// reserveThreads has Go's runtime make as many threads as are ever needed at once, and keep
// them: it ends a program that it cannot give a thread to (pids.max, RLIMIT_NPROC), and a
// pod at its limit of processes is one that leaks.
func reserveThreads() {
	runtime.GOMAXPROCS(min(runtime.GOMAXPROCS(0), mostProcessors))
	var made sync.WaitGroup
	end := make(chan struct{})
	for range spareThreads + runtime.GOMAXPROCS(0) {
		made.Add(1)
		go func() {
			runtime.LockOSThread() // no other goroutine has it until then
			made.Done()
			<-end
			runtime.UnlockOSThread()
		}()
	}
	made.Wait()
	close(end)
}
