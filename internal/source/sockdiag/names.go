package sockdiag

import (
	"time"

	"github.com/sockdog/sockdog/internal/sock"
)

// device is what a device was called at an instant: it may be renamed or deleted.
type device struct {
	name, altNames string
	read           sock.Instant
}

// namesLast is how long the names of a device are believed, over many scans:
// rtnetlink is a slow witness, which waits for whoever changes devices, and seldom
// has news.
const namesLast = 10 * time.Second

// maxNamed is of how many devices the names are kept: some come and go by thousands.
const maxNamed = 1 << 10

// device is what the device with that index is called, nothing if there is none
// any more.
func (c *Conn) device(index uint32) device {
	d, ok := c.devices[index]
	if now := c.now(); !ok || now.Sub(d.read) > namesLast {
		d.name, d.altNames = c.link.deviceNames(index)
		d.read = now
		if len(c.devices) >= maxNamed {
			clear(c.devices)
		}
		c.devices[index] = d
	}
	return d
}

// read decodes a socket and puts names to its numbers.
func (c *Conn) read(s *sock.Socket, b []byte) error {
	cgroup, err := decode(s, b)
	if err != nil {
		return err
	}
	s.ID.Netns = c.link.netns()
	s.Cgroup = c.cgroupNames.Path(cgroup)
	if s.Iface != 0 {
		d := c.device(s.Iface)
		s.Device, s.AltNames = d.name, d.altNames
	}
	return nil
}

// numbers tells a compiler what the kernel calls by numbers (ssfilter.Names).
type numbers struct{ c *Conn }

func (n numbers) DeviceIndex(name string) (index uint32, ok bool) { return n.c.link.deviceIndex(name) }

func (n numbers) CgroupID(path string) (id uint64, ok bool) { return n.c.cgroups.ID(path) }
