package host

import (
	"fmt"
	"math"
	"os"
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
	// leastForEvents is with how little memory sockdog still takes events: loading them takes
	// some 10 MB for a moment.
	leastForEvents = 32 << 20
	// placeMemory is what the kernel takes for each socket in the table of events, and
	// tableShare the part of the limit that all of them may take: what BoundMemory leaves.
	placeMemory = 192
	tableShare  = 8
	// descriptorMemory is what the kernel takes for an entry of /proc/PID/fd that is listed (a dentry
	// and an inode of procfs), and leastDescriptors how many are listed in any case.
	descriptorMemory = 1 << 10
	leastDescriptors = 1000
)

// garbage is how much there may be before it is collected, in percent of what is in use. The
// daemon makes little of it, but for storms of sockets: those are to be small, too.
const garbage = 15

// BoundMemory has the garbage collector keep the heap small, unless GOGC says how small, and
// below the memory limit of the cgroup, unless GOMEMLIMIT names another. It returns how many
// sockets fit in it; 0: there is no limit.
func BoundMemory() int {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbage)
	}
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

// DescriptorRoom returns how many descriptors of /proc a walk may list within the memory limit of
// the cgroup, to which the kernel charges them; 0: there is no limit.
func DescriptorRoom() int { return descriptorRoom(cgroup.MemoryLimit()) }

func descriptorRoom(limit int64) int {
	if limit == 0 {
		return 0
	}
	return int(max(leastDescriptors, (limit-baseMemory)/2/descriptorMemory))
}

// TablePlaces returns for how many sockets the table of events has room in the memory limit
// of the cgroup, to which the kernel charges it; 0: there is no limit. A table that took all
// would have the kernel end the daemon. The error says that there is no room for one.
func TablePlaces() (int, error) { return tablePlaces(cgroup.MemoryLimit()) }

func tablePlaces(limit int64) (int, error) {
	if limit != 0 && limit < leastForEvents {
		return 0, fmt.Errorf("the memory limit of this cgroup is %d MiB, and they need %d MiB", limit>>20, leastForEvents>>20)
	}
	return int(limit / tableShare / placeMemory), nil
}
