package nstest

import (
	"errors"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Device is a network device of the calling thread's namespace.
type Device struct{ netlink.Link }

// Loopback is lo, which is the first device of every namespace.
var Loopback = Device{&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "lo", Index: 1}}}

// NewDevice makes a device of that name and brings it up. It is an end of a veth
// pair, whose other end is called name-peer, and leads nowhere else.
func NewDevice(name string) (Device, error) {
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "-peer"}
	if err := netlink.LinkAdd(pair); err != nil {
		return Device{}, err
	}
	peer := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: pair.PeerName}}
	return Device{pair}, errors.Join(netlink.LinkSetUp(peer), netlink.LinkSetUp(pair))
}

// Index is the number that the kernel knows the device by.
func (d Device) Index() int { return d.Attrs().Index }

// AddAltName gives the device one more name, as "ip link property add" does.
func (d Device) AddAltName(name string) error { return netlink.LinkAddAltName(d, name) }

// AddAddress gives the device an address, which can be used at once: nobody is
// asked whether he has it (RFC 4862, 5.4).
func (d Device) AddAddress(addr netip.Prefix) error {
	a, err := netlink.ParseAddr(addr.String())
	if err != nil {
		return err
	}
	a.Flags = unix.IFA_F_NODAD
	return netlink.AddrReplace(d, a)
}
