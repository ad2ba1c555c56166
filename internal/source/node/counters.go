package node

import (
	"maps"
	"time"

	"github.com/sockdog/sockdog/internal/counters"
	"github.com/sockdog/sockdog/internal/sock"
)

// Counters reads the counters of all namespaces together. It is for one thread.
type Counters struct {
	source *Source
	seen   map[*namespace]struct{} // by the last Read

	ports   map[uint32]sock.Ports // at
	portsAt sock.Instant
}

// OpenCounters returns counters for the calling thread.
func (s *Source) OpenCounters() (*Counters, error) {
	return &Counters{source: s}, s.own.counters(func(*counters.Reader) error { return nil })
}

// Close ends them.
func (c *Counters) Close() {}

// Read sums up the counters. The segments of many namespaces are not read while the table
// tells what a scan would find, which costs less than they do; and when a namespace has come
// or gone, their sum says nothing.
func (c *Counters) Read() (sock.Counters, error) {
	cheap := c.source.config.All && c.source.table() != nil
	sum := sock.Counters{HasTimeWait: true, HasInSegs: true}
	seen := make(map[*namespace]struct{})
	for _, n := range c.source.namespaces() {
		var one sock.Counters
		err := n.counters(func(r *counters.Reader) (err error) {
			if cheap {
				one, err = r.ReadTimeWait()
			} else {
				one, err = r.Read()
			}
			return err
		})
		if isLeft(err) {
			continue
		}
		if err != nil {
			return sock.Counters{}, err
		}
		sum.TimeWait += one.TimeWait
		sum.InSegs += one.InSegs
		sum.HasTimeWait = sum.HasTimeWait && one.HasTimeWait
		sum.HasInSegs = sum.HasInSegs && one.HasInSegs
		seen[n] = struct{}{}
	}
	sum.HasInSegs = sum.HasInSegs && sameKeys(c.seen, seen)
	c.seen = seen
	return sum, nil
}

func sameKeys(a, b map[*namespace]struct{}) bool {
	for n := range b {
		if _, ok := a[n]; !ok {
			return false
		}
	}
	return len(a) == len(b)
}

// portsLast is how long the ports of many namespaces are believed: they seldom change.
const portsLast = time.Minute

// Ports are those of each namespace that connect(2) chooses from. A namespace in which they
// cannot be read is left out.
func (c *Counters) Ports() (map[uint32]sock.Ports, error) {
	now := c.source.config.Now()
	if c.ports != nil && c.source.config.All && now.Sub(c.portsAt) < portsLast {
		return c.ports, nil
	}
	all := make(map[uint32]sock.Ports)
	for _, n := range c.source.namespaces() {
		_ = n.counters(func(r *counters.Reader) error {
			ports, err := r.Ports()
			maps.Copy(all, ports)
			return err
		})
	}
	c.ports, c.portsAt = all, now
	return all, nil
}

// InUse counts the full sockets of all namespaces; false: that is not known.
func (c *Counters) InUse() (sum uint64, known bool, err error) {
	known = true
	for _, n := range c.source.namespaces() {
		err := n.counters(func(r *counters.Reader) error {
			inUse, ok, err := r.InUse()
			sum, known = sum+inUse, known && ok
			return err
		})
		if err != nil && !isLeft(err) {
			return 0, false, err
		}
	}
	return sum, known, nil
}

// Pressure is what is short in each namespace, and on the host, if the namespace is watched
// that it began with.
func (c *Counters) Pressure() (sock.Pressure, error) {
	var all sock.Pressure
	for _, n := range c.source.namespaces() {
		err := n.counters(func(r *counters.Reader) error {
			p, err := r.Pressure()
			if err != nil {
				return err
			}
			if all.ListenDrops == nil {
				all.ListenDrops = p.ListenDrops
			} else {
				maps.Copy(all.ListenDrops, p.ListenDrops)
			}
			if p.HasOrphans {
				all.HasOrphans, all.Orphans = true, p.Orphans
			}
			if p.HasMemory {
				all.HasMemory, all.Memory = true, p.Memory
			}
			return nil
		})
		if err != nil && !isLeft(err) {
			return sock.Pressure{}, err
		}
	}
	return all, nil
}
