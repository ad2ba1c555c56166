package sock

import "github.com/sockdog/sockdog/rules/ssfilter"

// Counters are what a network namespace counts of its TCP sockets, at one instant.
type Counters struct {
	HasTimeWait, HasInSegs bool // the kernel reports it

	TimeWait uint64 // timewait minisockets of both families: TIME_WAIT, and orphans in FIN_WAIT2
	InSegs   uint64 // segments that ever arrived; it wraps, so only "the same as before" means anything
}

// Still reports whether it is certain that no segment has arrived since the counters
// were read before: a scan could find nothing new but what programs do by themselves.
func (c *Counters) Still(before *Counters) bool {
	return c.HasInSegs && before.HasInSegs && c.InSegs == before.InSegs
}

// Pressure is what the kernel counts where a network namespace, or the host, is short of
// something that all its sockets share.
type Pressure struct {
	// ListenDrops are the connections that listening sockets have dropped since their
	// network namespace was made, by its inode; nil: not known.
	ListenDrops map[uint32]uint64

	HasOrphans, HasMemory bool    // the kernel reports it, and its limit
	Orphans, Memory       float64 // of the host, in percent of the limits
}

// Ports are the local ports of a network namespace that connect(2) may choose.
type Ports struct {
	Ephemeral ssfilter.PortRange   // ip_local_port_range
	Free      []ssfilter.PortRange // of those, the ones that are not reserved
}
