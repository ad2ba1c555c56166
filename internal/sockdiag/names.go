package sockdiag

import (
	"github.com/sockdog/sockdog/internal/cgroup"
	"github.com/sockdog/sockdog/internal/sock"
)

// names knows what the kernel calls by numbers, for the time of one look or one
// question: devices are deleted and renamed, and cgroups come and go.
type names struct {
	cgroups cgroup.Batch
	devices map[uint32]string
}

// begin forgets what was known of devices.
func (n *names) begin(cgroups *cgroup.Tree) {
	n.cgroups = cgroups.Batch()
	clear(n.devices)
}

// device is the name of the device with that index, "" if there is none any more.
func (c *Conn) device(index uint32) string {
	name, ok := c.names.devices[index]
	if !ok {
		if c.names.devices == nil {
			c.names.devices = make(map[uint32]string)
		}
		name = c.link.deviceName(index)
		c.names.devices[index] = name
	}
	return name
}

// read decodes a socket and puts names to its numbers.
func (c *Conn) read(s *sock.Socket, b []byte) error {
	cgroup, err := decode(s, b)
	if err != nil {
		return err
	}
	s.Cgroup = c.names.cgroups.Path(cgroup)
	if s.Iface != 0 {
		s.Device = c.device(s.Iface)
	}
	return nil
}

// numbers tells a compiler what the kernel calls by numbers (ssfilter.Names).
type numbers struct{ c *Conn }

func (n numbers) DeviceIndex(name string) (index uint32, ok bool) { return n.c.link.deviceIndex(name) }

func (n numbers) CgroupID(path string) (id uint64, ok bool) { return n.c.cgroups.ID(path) }
