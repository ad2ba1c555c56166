package sock

import (
	"math"
	"time"
)

// Instant is a reading of CLOCK_MONOTONIC without a time namespace's offset:
// nanoseconds since the host's boot, suspended time left out. It is what the
// kernel's jiffies count too, survives a restart of sockdog and is not moved by
// a change of the wall clock.
type Instant int64

// Never is an instant that does not come.
const Never = Instant(math.MaxInt64)

// Add returns the instant d later.
func (t Instant) Add(d time.Duration) Instant { return t + Instant(d) }

// Sub returns the time from u to t.
func (t Instant) Sub(u Instant) time.Duration { return time.Duration(t - u) }

// Origin is where instants and cookies are valid: one boot of the host, and one network
// namespace in it.
type Origin struct {
	BootID      string `json:"boot_id"`                // 32 hexadecimal digits
	Netns       string `json:"netns"`                  // its inode
	NetnsCookie uint64 `json:"netns_cookie,omitempty"` // SO_NETNS_COOKIE, which no other namespace ever has in this boot; 0: the kernel has none
}
