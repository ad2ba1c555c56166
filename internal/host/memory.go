package host

import (
	"math"
	"runtime/debug"

	"github.com/sockdog/sockdog/internal/cgroup"
)

const (
	// baseMemory is what the daemon takes without any socket, and trackMemory what
	// each one that it watches may add: both measured, and rounded up.
	baseMemory  = 12 << 20
	trackMemory = 160
	// leastTracks is how many it watches however little memory there is.
	leastTracks = 1000
)

// BoundMemory has the garbage collector keep below the memory limit of the cgroup,
// unless GOMEMLIMIT names another, and returns how many sockets fit in it; 0:
// there is no limit.
func BoundMemory() int {
	limit := debug.SetMemoryLimit(-1)
	if limit == math.MaxInt64 {
		if limit = cgroup.MemoryLimit(); limit == 0 {
			return 0
		}
		limit -= limit / 4 // room for what the collector does not count, and is late with
		debug.SetMemoryLimit(limit)
	}
	return int(max(leastTracks, (limit-baseMemory)/trackMemory))
}
