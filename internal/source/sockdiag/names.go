package sockdiag

import (
	"time"

	"github.com/sockdog/sockdog/internal/cgroup"
	"github.com/sockdog/sockdog/internal/sock"
)

// names knows what the kernel calls by numbers, for the time of one scan or one
// question: devices are deleted and renamed, and cgroups come and go.
type names struct {
	cgroups cgroup.Batch
	devices map[uint32]device
	others  map[uint32]otherNames
}

// otherNames are the alternative names of a device at an instant. They outlive
// one scan: rtnetlink is a slow witness, which waits for whoever changes devices,
// and seldom has news.
type otherNames struct {
	of, names string
	read      sock.Instant
}

// othersLast is how long alternative names are believed.
const othersLast = 10 * time.Second

// device is what a device is called.
type device struct{ name, altNames string }

// begin forgets what was known of devices.
func (n *names) begin(cgroups *cgroup.Tree) {
	n.cgroups = cgroups.Batch()
	clear(n.devices)
}

// device is what the device with that index is called, nothing if there is none
// any more.
func (c *Conn) device(index uint32) device {
	d, ok := c.names.devices[index]
	if !ok {
		if c.names.devices == nil {
			c.names.devices = make(map[uint32]device)
		}
		if d.name = c.link.deviceName(index); d.name != "" {
			d.altNames = c.otherNames(index, d.name)
		}
		c.names.devices[index] = d
	}
	return d
}

// otherNames are the alternative names of the device with that index and name.
func (c *Conn) otherNames(index uint32, name string) string {
	o, ok := c.names.others[index]
	if now := c.now(); !ok || o.of != name || now.Sub(o.read) > othersLast {
		if c.names.others == nil {
			c.names.others = make(map[uint32]otherNames)
		}
		o = otherNames{of: name, names: c.link.altNames(index), read: now}
		c.names.others[index] = o
	}
	return o.names
}

// read decodes a socket and puts names to its numbers.
func (c *Conn) read(s *sock.Socket, b []byte) error {
	cgroup, err := decode(s, b)
	if err != nil {
		return err
	}
	s.ID.Netns = c.link.netns()
	s.Cgroup = c.names.cgroups.Path(cgroup)
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
