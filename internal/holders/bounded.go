package holders

import "time"

const (
	// PerProcess is how long reading one process may take. One of 20,000 descriptors takes a
	// second on a busy machine.
	PerProcess = 10 * time.Second

	// mostHung is after how many processes that hang a walk gives up: each leaves a thread
	// behind.
	mostHung = 16
)

// bounded calls do for each process, on another goroutine. One that does not come back
// within that time is left behind, and its process is among those that hung; a walk that
// has waited too often is given up, and the processes that it has not come to are among
// them, too. What do returns of the others is handed to took, in turn.
func bounded[T any](pids []int, within time.Duration, do func(pid int) T, took func(T)) (hung []int) {
	for len(pids) > 0 && len(hung) < mostHung {
		todo, done := pids, make(chan T)
		stop := make(chan struct{})
		go func() {
			for _, pid := range todo {
				select {
				case done <- do(pid):
				case <-stop:
					return
				}
			}
		}()
		late := time.NewTimer(within)
		for stuck := false; len(pids) > 0 && !stuck; {
			select {
			case result := <-done:
				took(result)
				pids = pids[1:]
				late.Reset(within)
			case <-late.C:
				hung, pids, stuck = append(hung, pids[0]), pids[1:], true
			}
		}
		late.Stop()
		close(stop)
	}
	return append(hung, pids...)
}
