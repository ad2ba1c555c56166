package holders

import (
	"fmt"
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
)

// FindSkipping is Find for who cannot wait: a process at which the walk stands still for that
// long is left out, as one that may not be read, and returned. Each leaves a thread behind.
func FindSkipping(root string, wanted map[uint32]struct{}, within time.Duration) (found Found, hung []int, err error) {
	type result struct {
		Found
		err error
	}
	for len(hung) < mostHung {
		f := NewFinder(root, nil)
		f.skip = slices.Clone(hung)
		done := make(chan result, 1)
		go func() {
			found, err := f.Find(wanted)
			done <- result{found, err}
		}()
		at, since := 0, time.Time{}
		look := time.NewTicker(max(within/8, time.Millisecond))
		for stuck := false; !stuck; {
			select {
			case r := <-done:
				look.Stop()
				return r.Found, hung, r.err
			case now := <-look.C:
				pid := f.At()
				if pid != at {
					at, since = pid, now
				}
				stuck = at != 0 && now.Sub(since) >= within
			}
		}
		look.Stop()
		hung = append(hung, at)
	}
	return Found{}, hung, fmt.Errorf("find socket holders in %s: %d processes hang when they are read", root, len(hung))
}

// unread is what is known of a process that nobody dares to read.
func unread(pid int) sock.Holder { return sock.Holder{PID: pid, Comm: "?"} }
